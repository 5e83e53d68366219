"""`ddpm-serve`: answer requests for images over HTTP."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_export.cli.console import entry_point
from ddpm_export.cli.help import HOW, SAFETY, WHAT, WHERE
from ddpm_export.cli.options import Debug, Model, Runtime, Untrusted, limits_of
from ddpm_export.errors import UsageError, not_installed
from ddpm_export.serving.asked import Limits

if TYPE_CHECKING:
    from ddpm_export.serving.painting import Steps

EXAMPLES = {
    WHAT: "ddpm-serve exported/unet.onnx",
    HOW: "ddpm-serve exported/unet.onnx --running 2 --queue 100 --answer-time 30",
    WHERE: "ddpm-serve exported/unet.onnx --host 0.0.0.0 --port 8080 --threads 1",
    SAFETY: "ddpm-serve theirs.onnx --untrusted 60s,4GiB --max-images 4 --max-steps 50",
    "Help": "ddpm-serve --install-completion",
}
USUAL = Limits()


def _limit(flag: str, text: str, group: str) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=group, min=1)


@dataclass(frozen=True)
class Bounds:
    """What a client may ask for, how long it may take, and how many are served: the fields of `Limits`."""

    running: Annotated[
        int | None,
        _limit("--running", "Requests that sample at once. [default: one per core, 1 with --untrusted]", HOW),
    ] = None
    queue: Annotated[
        int, typer.Option(help="Requests that wait for their turn; more get 503 at once.", rich_help_panel=HOW, min=0)
    ] = USUAL.queue
    answer_s: Annotated[float, _limit("--answer-time", "Seconds for an answer, waiting included.", HOW)] = (
        USUAL.answer_s
    )
    grace_s: Annotated[int, _limit("--grace", "Seconds for running requests after Ctrl-C or SIGTERM.", HOW)] = (
        USUAL.grace_s
    )
    max_images: Annotated[int, _limit("--max-images", "Images of one request.", SAFETY)] = USUAL.max_images
    max_steps: Annotated[int, _limit("--max-steps", "Denoising steps of one request.", SAFETY)] = USUAL.max_steps
    max_body: Annotated[int, _limit("--max-body", "Bytes of a POST's body.", SAFETY)] = USUAL.max_body
    header_s: Annotated[float, _limit("--header-time", "Seconds for a request's head to arrive.", SAFETY)] = (
        USUAL.header_s
    )
    body_s: Annotated[
        float, _limit("--body-time", "Seconds for a body to arrive, and for an answer to leave.", SAFETY)
    ] = USUAL.body_s


def serve(
    model: Model,
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.", rich_help_panel=WHERE)] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="The port; 0 for a free one, which is printed.", rich_help_panel=WHERE, min=0, max=65535)
    ] = 8000,
    runtime: Runtime,
    untrusted: Untrusted = None,
    bounds: Bounds,
    debug: Debug = False,
) -> None:
    """Serve images over HTTP: open /?seed=7&n=4 for what ddpm-run --seed 7 --n 4 writes.

    Exit codes: 0 stopped by Ctrl-C or SIGTERM, 2 usage, 3 bad file, 4 model refused, 5 environment.
    """
    given = {name: value for name, value in dataclasses.asdict(bounds).items() if value is not None}
    if untrusted is not None:
        given.setdefault("running", 1)
        if runtime.trust or given["running"] != 1:
            raise UsageError(f"Give --untrusted or {'--trust' if runtime.trust else '--running'}, not both.")
    limits = Limits(**given)
    try:
        from ddpm_export.serving.server import listening
        from ddpm_export.serving.server import serve as serve_forever
        from ddpm_export.serving.service import Service
    except ImportError as exc:
        raise not_installed(exc.name or "uvicorn", "serve") from exc
    service = Service(_steps(model, runtime, untrusted, limits), limits)
    with listening(host, port) as sock:
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{sock.getsockname()[1]}/?seed=7&n=4", flush=True)
        serve_forever(service, limits, sock)


def _steps(model: Path, runtime: Runtime, untrusted: str | None, limits: Limits) -> "Steps":
    """Open the model, here or in a child; each evaluation has one thread unless there is only one at a time."""
    from ddpm_export.serving.painting import Painter, confined

    how = dict(vars(runtime))
    how["threads"] = how["threads"] or (None if limits.running == 1 else 1)
    if untrusted is None:
        return Painter(str(model), limits, **how).steps
    timeout_s, memory_gib = limits_of(untrusted)
    return confined([str(model), dataclasses.asdict(limits), memory_gib, how], min(timeout_s, limits.answer_s))


main = entry_point(serve, EXAMPLES)
