"""A server of the package in a thread, on a port of the system's choice, and raw requests to it."""

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from typing import NamedTuple

from ddpm_export.serving.asked import Limits
from ddpm_export.serving.server import listening, server_for
from ddpm_export.serving.service import Service


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict


@contextlib.contextmanager
def started(steps, **limits):
    """Yield the port of a server whose answers `steps` makes; at its end it is stopped, as by a signal."""
    bounds = Limits(**limits)
    service = Service(steps, bounds)
    server = server_for(service, bounds)
    with listening("127.0.0.1", 0) as sock:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])))
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)
            service.pool.shutdown(cancel_futures=True)
            assert not thread.is_alive()


def ask(port, path="/", body=None, method=None, timeout=30, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()})


def say(port, *parts, pause_s=0.0, timeout=30):
    """Send bytes as they are, with a pause before each part but the first; return all that comes back, at its end."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
        for k, part in enumerate(parts):
            time.sleep(pause_s if k else 0)
            client.sendall(part)
        received = b""
        while part := client.recv(2**16):
            received += part
        return received
