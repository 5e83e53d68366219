"""Serve images over HTTP with the standard library: python examples/python/serve.py, then open /?seed=7&image=3.

&n=4 asks for several on one page, &steps=20 for fewer steps; of a --model with classes, &label=sneaker&guidance=2 says
what is made. A POST of {"image": a PNG in base64, "mask": another, "strength": 0.5}, with mask or strength or both, has
that picture filled in or made anew. With --untrusted a child opens the model and samples: what hangs or crashes it is
one answer, not the server's end. Ctrl-C or SIGTERM ends it once those that were let in have their answers.
"""

import argparse
import json
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from painting import BODY, opened, painter, png

from ddpm_export.errors import DdpmExportError, UsageError
from ddpm_export.system.processor import cores

MODEL = "exported/unet.onnx"
SECONDS = 60.0  # that an answer may take, its turn waited for
MOST_BYTES = 4 * 2**20  # of a request's body
KINDS = {"seed": int, "image": int, "n": int, "steps": int, "label": str, "guidance": float}
MOST = {"n": 16, "steps": 250}  # of one request
POOL = ThreadPoolExecutor(cores())
ROOM = threading.Semaphore(cores() + 32)  # requests at work or waiting for a core; others are sent away


class Handler(BaseHTTPRequestHandler):
    """Answer /?seed=S&image=K with a PNG: the same for the same query, so that any cache may keep it for ever."""

    paint: Callable[..., bytes]
    timeout = 10  # seconds that a client may be silent: each that waits holds a thread

    def do_POST(self) -> None:
        """Send images made of the picture in the body."""
        length = int(self.headers.get("Content-Length", 0))
        if not 0 < length <= MOST_BYTES:
            return self.answer(413, "text/plain", f"The body must have 1 to {MOST_BYTES} bytes.".encode())
        try:
            given = dict(json.loads(self.rfile.read(length)))
        except (ValueError, TypeError):
            return self.answer(400, "text/plain", f"The body must be such as {BODY}.".encode())
        self.paint_and_answer(given)

    def do_GET(self) -> None:
        """Send images, or one line that says what was wrong."""
        self.paint_and_answer()

    def paint_and_answer(self, *given: dict[str, Any]) -> None:
        """Send what the query asks for, of a picture that may be given."""
        url = urlsplit(self.path)
        try:
            asked = {name: KINDS[name](text) for name, text in parse_qsl(url.query, strict_parsing=bool(url.query))}
            for name, most in MOST.items():
                if not 1 <= asked.get(name, 1) <= most:
                    raise ValueError(f"{name} must be 1 to {most}, got {asked[name]}.")
            if url.path != "/":
                return self.answer(404, "text/plain", b"Ask for /?seed=7&image=3.")
            if not ROOM.acquire(blocking=False):
                raise Late
            made = POOL.submit(self.paint, asked, *given)
            made.add_done_callback(lambda _: ROOM.release())
            body = made.result(SECONDS)
        except KeyError as exc:
            return self.answer(400, "text/plain", f"The query must be of {', '.join(KINDS)}, got {exc}.".encode())
        except (ValueError, UsageError) as exc:
            return self.answer(400, "text/plain", str(exc).encode())
        except Late:
            return self.answer(503, "text/plain", b"Busy. Come again.")
        except DdpmExportError as exc:
            return self.answer(500, "text/plain", str(exc).encode())
        self.answer(200, "image/png", body)

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
        Handler.paint = staticmethod(painter(options.model, SECONDS))
    else:
        opened(options.model)
        Handler.paint = staticmethod(partial(png, options.model))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ThreadingHTTPServer(("127.0.0.1", options.port), Handler) as server:
        server.daemon_threads = False  # they are waited for at the end
        print(f"http://127.0.0.1:{server.server_address[1]}/?seed=7&image=3", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
