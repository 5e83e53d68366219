"""Serve images over HTTP with the standard library: python examples/python/serve.py, then open /?seed=7&image=3.

Of a --model with classes, /?label=sneaker&guidance=2 says what is made. A POST of {"image": a PNG in base64, "mask":
another, "strength": 0.5}, with mask or strength or both, has that picture filled in or made anew. With --untrusted a
child opens the model and samples: what hangs or crashes it is one answer, not the server's end.
"""

import argparse
import base64
import io
import json
import sys
from collections.abc import Callable
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ddpm_export.child import Worker, answer, confine
from ddpm_export.errors import BadFileError, DdpmExportError, UsageError

MODEL = "exported/unet.onnx"
SECONDS = 60.0  # that a child has for one image
MOST_BYTES = 4 * 2**20  # of a request's body
BODY = '{"image": "...", "mask": "...", "strength": 0.5}'  # pictures as PNGs in base64


@cache
def opened(model: str) -> Any:
    """Return a network and its spec, opened once for all requests: ONNX Runtime's run() is thread-safe."""
    from ddpm_export import open_model

    return open_model(model, threads=1)


def png(
    model: str, seed: int, image: int, label: str | None, guidance: float | None, given: dict[str, Any] | None = None
) -> bytes:
    """Return one image of a model as a PNG, made of a given picture if there is one."""
    from PIL import Image

    from ddpm_export import edit, generate

    how = {"n": 1, "seed": seed, "first": image, "num_steps": 50, "label": label, "guidance": guidance}
    network = opened(model)
    pixels = (generate(network, **how) if given is None else edit(network, **read(network[1], given), **how))[0]
    encoded = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(encoded, format="PNG")
    return encoded.getvalue()


def read(spec: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return what `edit` is given, of PNGs in base64 and a number."""
    from ddpm_export.images import read_image

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


def painter(model: str) -> Callable[..., bytes]:
    """Return what gives the same PNGs without opening the model here."""
    child = Worker("serve:be_painter", model)
    return lambda *asked: base64.b64decode(child.ask(*asked, timeout_s=SECONDS))


class Handler(BaseHTTPRequestHandler):
    """Answer /?seed=S&image=K with a PNG: the same for the same query, so that any cache may keep it for ever."""

    paint: Callable[..., bytes]
    timeout = 60  # seconds that a client may be silent: each that waits holds a thread

    def do_POST(self) -> None:
        """Send one image made of the picture in the body."""
        length = int(self.headers.get("Content-Length", 0))
        if not 0 < length <= MOST_BYTES:
            return self.answer(413, "text/plain", f"The body must have 1 to {MOST_BYTES} bytes.".encode())
        try:
            self.paint_and_answer(dict(json.loads(self.rfile.read(length))))
        except (ValueError, TypeError):
            self.answer(
                400, "text/plain", b'The body must be such as {"image": "...", "mask": "...", "strength": 0.5}.'
            )

    def do_GET(self) -> None:
        """Send one image, or one line that says what was wrong."""
        self.paint_and_answer()

    def paint_and_answer(self, *given: dict[str, Any]) -> None:
        """Send what the query asks for, of a picture that may be given."""
        try:
            query = dict(parse_qsl(urlsplit(self.path).query))
            seed, image = (int(query.get(name, 0)) for name in ("seed", "image"))
            guidance = float(query["guidance"]) if "guidance" in query else None
            self.answer(200, "image/png", self.paint(seed, image, query.get("label"), guidance, *given))
        except (ValueError, UsageError) as exc:
            self.answer(400, "text/plain", str(exc).encode())
        except DdpmExportError as exc:
            self.answer(500, "text/plain", str(exc).encode())

    def answer(self, status: int, kind: str, body: bytes) -> None:
        """Send a whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", nargs="?", type=int, default=8000)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--untrusted", action="store_true")
    options = parser.parse_args()
    if options.untrusted:
        Handler.paint = staticmethod(painter(options.model))
    else:
        opened(options.model)
        Handler.paint = staticmethod(partial(png, options.model))
    with ThreadingHTTPServer(("127.0.0.1", options.port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}/?seed=7&image=3", flush=True)
        server.serve_forever()
