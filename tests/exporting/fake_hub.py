"""A server that plays the hub for huggingface_hub: models are folders, each with one commit."""

import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves `models`, a folder of owner/name folders, at `endpoint`; `requests` are the paths asked for."""

    def __init__(self, models):
        self.models, self.requests, self.broken = models, [], False

    @contextlib.contextmanager
    def running(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.requests.append(f"{self.command} {unquote(urlsplit(self.path).path)}")
                status, headers, body = hub.answer(unquote(urlsplit(self.path).path))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": len(body)}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        with contextlib.ExitStack() as stack:
            for end in (server.server_close, thread.join, server.shutdown):  # called in reverse
                stack.callback(end)
            self.stop = stack.close
            yield self

    def answer(self, path):
        """Return status, headers and body."""
        if self.broken:
            return 403, {}, b"no"
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        name, revision = (api[1], api[3]) if api else (file[1], file[2]) if file else ("", None)
        folder = self.models / name
        if not name or not folder.is_dir():
            return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
        if revision not in (None, "main", "v1", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"}, b""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        if api:
            if api[2] == "tree":
                answer = [
                    {"type": "file", "path": name, "size": path.stat().st_size, "oid": sha1_of(path)}
                    for name, path in zip(names, files, strict=True)
                ]
            else:
                answer = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()
        if file[3] not in names:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}, b""
        path = folder / file[3]
        return 200, {"ETag": f'"{sha1_of(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "none"}, path.read_bytes()


def sha1_of(path):
    return hashlib.sha1(path.read_bytes()).hexdigest()
