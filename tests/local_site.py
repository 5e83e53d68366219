"""A web server on this machine, for what is downloaded elsewhere."""

import contextlib
import functools
import http.server
import threading


@contextlib.contextmanager
def served(folder):
    """Serve a folder: `url` is its address, `asked` the paths asked for."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            server.asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    server.asked, server.folder, server.url = [], folder, f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
