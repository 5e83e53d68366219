"""From what a client asks for to the bytes of the answer, step by step, here or in a child that opens the model."""

import base64
import hashlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export import __version__
from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.images.draw import drawing
from ddpm_export.images.read import read_image
from ddpm_export.images.write import grid, png_bytes
from ddpm_export.process.pixels import Pixels
from ddpm_export.runtimes.opening import open_file
from ddpm_export.sampling.generate import pictures
from ddpm_export.sampling.request import Request, request_for
from ddpm_export.sandbox.child import Worker, answer, confine
from ddpm_export.serving.asked import Limits
from ddpm_export.system.files import sha256_of

Steps = Callable[[dict[str, Any]], Iterator[str | bytes | None]]
NAMES = {"steps": "num_steps", "image": "images"}  # what the library calls them


class Painter:
    """A model, opened once, whose answers are the files that `ddpm-run` writes; many threads may call `steps`."""

    def __init__(self, model: str, limits: Limits, **how: Any) -> None:
        self._opened, self._limits, self._sha256 = open_file(model, **how), limits, sha256_of(model)

    def steps(self, asked: dict[str, Any]) -> Iterator[str | bytes | None]:
        """Yield a digest of all that the answer depends on, None after each step, and the answer.

        Raises UsageError for what the model or the limits refuse, NonFiniteError as `sample` does.
        """
        spec, kind, request = self._opened.spec, asked.get("format", "png"), self._request(asked)
        text = {"model": spec.name, "model_sha256": self._sha256, **request.describe()}
        text |= {"first": request.first, "n": request.n}
        yield hashlib.sha256(json.dumps([__version__, kind, text], sort_keys=True).encode()).hexdigest()[:32]
        batches = []
        for _, _, images in pictures(self._opened, request, lambda i: i == request.num_rows):
            batches += [] if images is None else [images]
            yield None
        made = np.concatenate(batches)
        yield (
            _npy_bytes(made)
            if kind == "npy"
            else png_bytes(grid(made) if self._opened.spec.is_picture else drawing(made), text)
        )

    def _request(self, asked: dict[str, Any]) -> Request:
        spec, limits = self._opened.spec, self._limits
        how = {"n": 1, "seed": 0} | {NAMES.get(name, name): value for name, value in asked.items()}
        if how.pop("format", "png") == "png" and spec.is_picture and spec.picture_shape[0] not in (1, 3):
            raise UsageError(f"format must be npy for images of {spec.picture_shape[0]} channels.")
        if not 1 <= how["n"] <= limits.max_images:
            raise UsageError(f"n must be from 1 to {limits.max_images}, got {how['n']}.")
        try:
            if "images" in how:
                how["images"] = _picture(how["images"], spec.picture_shape[0], "image")[None]
            if "mask" in how:
                how["mask"] = _picture(how["mask"], 1, "mask")[..., 0]
            request = request_for(spec, **how)
        except UsageError as exc:
            line = str(exc)
            for ours, theirs in NAMES.items():
                line = re.sub(rf"\b{theirs}\b", ours, line) if theirs in exc.fields else line
            raise UsageError(line) from exc
        if request.num_rows > limits.max_steps:
            raise UsageError(f"steps must be at most {limits.max_steps}, got {request.num_rows}.")
        return request


def _npy_bytes(images: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, images)
    return content.getvalue()


def _picture(encoded: str, channels: int, name: str) -> Pixels:
    try:
        return read_image(base64.b64decode(encoded, validate=True), channels, where=name)
    except (ValueError, BadFileError) as exc:  # the client's file, not the server's
        raise UsageError(f"{name} must be an image file in base64: {str(exc).rstrip('.')}.") from exc


def be_painter() -> None:
    """Answer `confined`, in the child: a request begins an answer, None goes on with it."""
    model, limits, memory_gib, how = json.loads(sys.argv[1])
    confine(Path(model), timeout_s=None, memory_gib=memory_gib, fully=how["provider"] == "cpu")
    painter: Painter | None = None
    steps: Iterator[str | bytes | None] = iter([None])

    def step(asked: dict[str, Any] | None) -> Any:
        nonlocal painter, steps
        painter = painter or Painter(model, Limits(**limits), **how)  # here, where an error reaches the parent
        steps = steps if asked is None else painter.steps(asked)
        value = next(steps)
        return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value

    answer(step)


def confined(settings: list[Any], timeout_s: float) -> Steps:
    """Return the `steps` of a painter in a child, one answer at a time, and raise what opening the model raises.

    settings: what `be_painter` reads. timeout_s: for each step; a child that takes longer is ended, and replaced for
    the next answer.
    """
    ask = partial(Worker("ddpm_export.serving.painting:be_painter", json.dumps(settings)).ask, timeout_s=timeout_s)

    def steps(asked: dict[str, Any]) -> Iterator[str | bytes | None]:
        value = ask(asked)
        while not isinstance(value, dict):
            yield value
            value = ask(None)
        yield base64.b64decode(value["base64"])

    ask(None)
    return steps
