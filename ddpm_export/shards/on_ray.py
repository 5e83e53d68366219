"""Shards made by Ray Data: a row is a shard, whose worker writes its own file. The only file that names ray."""

import dataclasses
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ddpm_export.cores import cores
from ddpm_export.errors import DdpmExportError, EnvironmentProblem, UsageError
from ddpm_export.shards.job import Job, make, missing, opened_for
from ddpm_export.wording import first_line, not_installed

__all__ = ["make_on_ray"]

OBJECTS = 2**27  # bytes that Ray keeps for what travels: rows of a few hundred


class _Worker:
    """Make the shards that come as rows; the model is opened once a worker."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.opened, self.settings = opened_for(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return make(self.job, self.opened, self.settings, int(row["shard"]))


def make_on_ray(
    job: Job, *, workers: int | None = None, address: str | None = None, report: Callable[[int], None] = lambda _: None
) -> None:
    """Make all that is missing; what a worker or a node that dies was making is made again by another.

    workers: how many processes, None for one a core; each computes on as many threads as there are cores for it, unless
    the job says otherwise. address: of a cluster that runs, whose machines share the paths of the job; None begins one
    here, for as long as this lasts, which listens on the loopback device only. report: told of the pictures of each
    shard. Raises what making raises, EnvironmentProblem without Ray or where it fails.
    """
    todo = missing(job)
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}.")
    if not todo:
        return
    with _cluster(address) as (ray, available):
        count = min(workers or available, len(todo))
        shared = dataclasses.replace(job, threads=job.threads or max(1, available // count))
        share = available / count
        made = ray.data.from_items([{"shard": shard} for shard in todo], override_num_blocks=len(todo)).map(
            _Worker,
            fn_constructor_args=[shared],
            compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
            num_cpus=share if share < 1 else int(share),
        )
        try:
            for record in made.iter_rows():
                report(len(job.numbers_of(record["shard"])))
        except Exception as exc:
            raise _told(exc) from exc


@contextmanager
def _cluster(address: str | None) -> Iterator[tuple[Any, int]]:
    """Yield ray, and how many cores workers may hold between them: one more is left to the tasks that feed them.

    Actors that held every core would wait for ever for their rows.
    """
    # read when ray is imported, or by processes that it starts; what a user has set stays
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}.items():
        os.environ.setdefault(name, value)
    if address is None:  # else Ray takes the machine's address in place of the loopback device's, and listens on all
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise not_installed("ray", "ray") from exc
    quiet = {"configure_logging": True, "logging_level": "ERROR", "log_to_driver": False}
    with tempfile.TemporaryDirectory(prefix="ddpm-ray-", ignore_cleanup_errors=True) as scratch:
        here = {
            "num_cpus": cores() + 1,
            "include_dashboard": False,
            "object_store_memory": OBJECTS,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": scratch,
        }
        try:
            with _unheard():
                ray.init(address or "local", **quiet, **({} if address else here))
        except Exception as exc:
            where = f"at {address}" if address else "here"
            raise EnvironmentProblem(f"Ray does not start {where}: {first_line(exc)}.") from exc
        try:
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = context.print_on_execution_start = False
            yield ray, max(1, int(ray.cluster_resources().get("CPU", 1)) - 1)
        finally:
            ray.shutdown()


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep off stderr what Ray's core says there of its settings."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _told(exc: BaseException) -> BaseException:
    """Return what a worker raised, where it is an error of ours, else one that says that Ray failed."""
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, DdpmExportError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return EnvironmentProblem(f"Ray failed: {first_line(exc)}. What is done is kept: run it again.")
