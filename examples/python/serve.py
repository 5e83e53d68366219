"""The least server around `generate`, with the standard library: python examples/python/serve.py MODEL [PORT].

Open /?seed=7&n=4&steps=20. It shows how requests become pictures, on the loopback device, for one person who trusts the
model. It is not for a network: the standard library's server has a backlog of 5, waits for slow clients as long as its
timeout, has no queue to refuse from, and makes pictures for clients that are gone. `ddpm-serve` has all of that.
"""

import argparse
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qsl

from ddpm_export import generate, open_model
from ddpm_export.errors import DdpmExportError
from ddpm_export.images.write import grid, png_bytes

KINDS = {"seed": int, "first": int, "n": int, "steps": int, "plan": str, "label": str, "guidance": float}
MOST = 16  # images of one request


class Handler(BaseHTTPRequestHandler):
    """Answer one request after another."""

    timeout = 10  # seconds that a silent client holds up the others
    model = None

    def do_GET(self):
        """Send a grid of images, or a line that says what is wrong."""
        try:
            pairs = parse_qsl(self.path.partition("?")[2], strict_parsing=True)
            asked = {"n": 1, "seed": 0, **{name: KINDS[name](text) for name, text in pairs}}
            if asked["n"] > MOST:
                raise ValueError(f"n must be at most {MOST}, got {asked['n']}.")
            if "steps" in asked:
                asked["num_steps"] = asked.pop("steps")
            self.answer(200, "image/png", png_bytes(grid(generate(self.model, **asked))))
        except (ValueError, KeyError, DdpmExportError) as exc:
            self.answer(400, "text/plain; charset=utf-8", f"{exc}\n".encode())

    def answer(self, status, kind, body):
        """Send a whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="exported/unet.onnx")
    parser.add_argument("port", nargs="?", type=int, default=8000)
    options = parser.parse_args()
    Handler.model = open_model(options.model)
    with HTTPServer(("127.0.0.1", options.port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}/?seed=7&n=4", flush=True)
        server.serve_forever()
