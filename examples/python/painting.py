"""What serve.py answers with: PNGs of a model, made in this process or in a child that opens a stranger's file."""

import base64
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.sandbox.child import Worker, answer, confine

__all__ = ["BODY", "opened", "painter", "png"]

BODY = '{"image": "...", "mask": "...", "strength": 0.5}'  # of a request, its pictures as PNGs in base64


@cache
def opened(model: str) -> Any:
    """Return a network and its spec, opened once for all requests: ONNX Runtime's run() is thread-safe."""
    from ddpm_export import open_model

    return open_model(model, threads=1)


def png(model: str, asked: dict[str, Any], given: dict[str, Any] | None = None) -> bytes:
    """Return images of a model, one or a grid, as a PNG, made of a given picture if there is one."""
    from ddpm_export import edit, generate
    from ddpm_export.images.write import grid, png_bytes

    names = {"image": "first", "steps": "num_steps"}
    how = {"n": 1, "seed": 0, "num_steps": 50} | {names.get(name, name): value for name, value in asked.items()}
    network = opened(model)
    return png_bytes(
        grid(generate(network, **how) if given is None else edit(network, **read(network[1], given), **how))
    )


def read(spec: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return what `edit` is given, of PNGs in base64 and a number."""
    from ddpm_export.images.read import read_image

    found: dict[str, Any] = {}
    try:
        if "image" in given:
            found["images"] = read_image(base64.b64decode(given["image"]), spec.state_shape[0], where="image")[None]
        if "mask" in given:
            found["mask"] = read_image(base64.b64decode(given["mask"]), 1, where="mask")[..., 0]
        if "strength" in given:
            found["strength"] = float(given["strength"])
    except (BadFileError, TypeError, ValueError) as exc:  # of a file, but the client's, not the server's
        raise UsageError(f"The body must be such as {BODY}: {exc}") from exc
    return found


def be_painter() -> None:
    """Answer with images of the model that is the argument, in the child."""
    model = sys.argv[1]
    confine(Path(model), timeout_s=None)  # each answer has its limit
    answer(lambda *asked: base64.b64encode(png(model, *asked)).decode())


def painter(model: str, seconds: float) -> Callable[..., bytes]:
    """Return what gives the same PNGs without opening the model here, each within so many seconds."""
    child = Worker("painting:be_painter", model)
    return lambda *asked: base64.b64decode(child.ask(*asked, timeout_s=seconds))
