"""Shards made by Ray Data: a row is a shard, whose worker writes its own files. The only file that names ray."""

import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from ddpm_export.errors import DdpmExportError, EnvironmentProblem, first_line, not_installed
from ddpm_export.system.processor import cores

OBJECTS = 2**27  # bytes that Ray keeps for what travels: rows of a few hundred

Make = Callable[[int], Any]  # a shard, by its number


class _Worker:
    """Make the shards that come as rows; what making needs is opened once a worker."""

    def __init__(self, begin: Callable[[int], Make], threads: int) -> None:
        self.make = begin(threads)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self.make(int(row["shard"]))
        return row


def make_on_ray(
    begin: Callable[[int], Make],
    todo: Sequence[int],
    *,
    workers: int | None = None,
    address: str | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> None:
    """Make shards by their numbers; if a worker or a node dies, another makes its shard again.

    begin: called in each worker with its number of threads, returns a function that makes a shard; must pickle.
    workers: how many processes, one a core by default. address: of a running cluster, whose machines share the set's
    paths; None starts one here, on the loopback device only, until this returns. report: called with each shard made.
    Raises what making raises, EnvironmentProblem without Ray or where it fails.
    """
    if not todo:
        return
    with _cluster(address) as (ray, available):
        count = min(workers or available, len(todo))
        share = available / count
        made = ray.data.from_items([{"shard": shard} for shard in todo], override_num_blocks=len(todo)).map(
            _Worker,
            fn_constructor_args=[begin, max(1, available // count)],
            compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
            num_cpus=share if share < 1 else int(share),
        )
        try:
            for row in made.iter_rows():
                report(row["shard"])
        except Exception as exc:
            raise _cause_of(exc) from exc


@contextmanager
def _cluster(address: str | None) -> Iterator[tuple[Any, int]]:
    """Yield ray, and how many cores its workers may hold.

    One more is left for the tasks that feed them: actors that held every core would wait for their rows for ever.
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
    with (
        tempfile.TemporaryDirectory(prefix="ddpm-ray-", ignore_cleanup_errors=True) as scratch,
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),  # where Ray reports that a worker died
    ):
        here = {
            "num_cpus": cores() + 1,
            "include_dashboard": False,
            "object_store_memory": OBJECTS,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": scratch,
        }
        others = _descendants()
        try:
            _begin(ray, address, quiet if address else {**quiet, **here})
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = context.print_on_execution_start = False
            yield ray, max(1, int(ray.cluster_resources().get("CPU", 1)) - 1)
        finally:
            started = _descendants() - others
            ray.shutdown()
            for pid in started:  # its workers would go on for two seconds more
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _begin(ray: Any, address: str | None, settings: dict[str, Any]) -> None:
    """Start Ray here or join a cluster, and take back SIGTERM, of which Ray's own handlers make other exit codes."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with _quiet_stderr():
            ray.init(address or "local", **settings)
        with suppress(ValueError):  # in another thread than the first, where Ray sets no handler either
            signal.signal(signal.SIGTERM, before)
    except SystemExit as exc:
        raise KeyboardInterrupt from exc
    except Exception as exc:
        where = f"at {address}" if address else "here"
        raise EnvironmentProblem(f"Ray does not start {where}: {first_line(exc)}.") from exc


def _descendants() -> set[int]:
    """Return the processes that this one has started, and those have; none where there is no /proc."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(place.name)] = int((place / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return set(found[1:])


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keep what Ray's core prints about its settings off stderr."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _cause_of(exc: BaseException) -> BaseException:
    """Return the error of ours that a worker raised, else one for Ray's failure."""
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, DdpmExportError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return EnvironmentProblem(f"Ray failed: {first_line(exc)}. Finished shards are kept; run it again.")
