"""Serve images over HTTP with the standard library: python examples/python/serve.py, then open /?seed=7&image=3."""

import io
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from ddpm_export import generate, open_model
from ddpm_export.errors import DdpmExportError

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
MODEL = open_model("exported/unet.onnx", threads=1)  # one for all requests: ONNX Runtime's run() is thread-safe


class Handler(BaseHTTPRequestHandler):
    """Answer /?seed=S&image=K with a PNG: the same for the same numbers, so that any cache may keep it for ever."""

    def do_GET(self) -> None:
        """Send one image, or one line that says what was wrong."""
        try:
            query = parse_qs(urlsplit(self.path).query)
            seed, image = (int(query.get(name, ["0"])[0]) for name in ("seed", "image"))
            pixels = generate(MODEL, n=1, seed=seed, first=image, num_steps=50)[0]
        except (ValueError, DdpmExportError) as exc:
            self.answer(400, "text/plain", str(exc).encode())
            return
        png = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(png, format="PNG")
        self.answer(200, "image/png", png.getvalue())

    def answer(self, status: int, kind: str, body: bytes) -> None:
        """Send a whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", PORT), Handler) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}/?seed=7&image=3", flush=True)
        server.serve_forever()
