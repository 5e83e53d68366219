"""Serve images over HTTP with the standard library: python examples/python/serve.py, then open /?seed=7&image=3.

With --untrusted a child opens the model and samples: what hangs or crashes it is one answer, not the server's end.
"""

import argparse
import base64
import io
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ddpm_export.child import Worker, answer, confine
from ddpm_export.errors import DdpmExportError, UsageError

MODEL = Path("exported/unet.onnx")
SECONDS = 60.0  # that a child has for one image


@cache
def model() -> Any:
    """Return the network and its spec, opened once for all requests: ONNX Runtime's run() is thread-safe."""
    from ddpm_export import open_model

    return open_model(MODEL, threads=1)


def png(seed: int, image: int) -> bytes:
    """Return one image of the model as a PNG."""
    from PIL import Image

    from ddpm_export import generate

    pixels = generate(model(), n=1, seed=seed, first=image, num_steps=50)[0]
    encoded = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(encoded, format="PNG")
    return encoded.getvalue()


def be_painter() -> None:
    """Answer with images, in the child."""
    confine(MODEL, timeout_s=None)  # each answer has its limit
    answer(lambda seed, image: base64.b64encode(png(seed, image)).decode())


PAINTER = Worker("serve:be_painter")


def png_of_the_child(seed: int, image: int) -> bytes:
    """Return the same PNG without opening the model here."""
    return base64.b64decode(PAINTER.ask(seed, image, timeout_s=SECONDS))


class Handler(BaseHTTPRequestHandler):
    """Answer /?seed=S&image=K with a PNG: the same for the same numbers, so that any cache may keep it for ever."""

    paint: Callable[[int, int], bytes] = staticmethod(png)

    def do_GET(self) -> None:
        """Send one image, or one line that says what was wrong."""
        try:
            query = parse_qs(urlsplit(self.path).query)
            seed, image = (int(query.get(name, ["0"])[0]) for name in ("seed", "image"))
            self.answer(200, "image/png", self.paint(seed, image))
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
    parser.add_argument("--untrusted", action="store_true")
    options = parser.parse_args()
    if options.untrusted:
        Handler.paint = staticmethod(png_of_the_child)
    else:
        model()
    with ThreadingHTTPServer(("127.0.0.1", options.port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}/?seed=7&image=3", flush=True)
        server.serve_forever()
