"""uvicorn around the application, with time limits for the head of a request and for taking an answer."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ddpm_export.errors import EnvironmentProblem
from ddpm_export.serving.asked import Limits
from ddpm_export.serving.service import Service

MAX_CONNECTIONS, MAX_HEAD, BACKLOG = 512, 2**16, 2048
LINGER_S = 2.0  # for a client that is refused to read why


class Connection(H11Protocol):
    """A connection whose client is in time, or gets an answer that says so."""

    limits: Limits
    _timer: asyncio.TimerHandle | None = None
    _is_refused = False

    def connection_made(self, transport: Any) -> None:
        """Wait for a request's head, unless there are too many connections."""
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, "There are too many connections. Try again later.")

    def data_received(self, data: bytes) -> None:
        """Take a part of a request; after an answer, the time for the next head begins."""
        if self._is_refused:
            return
        self._await_head()
        super().data_received(data)
        if self._is_busy and not self.flow.write_paused:
            self._wait(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._wait(None)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to take what was sent."""
        super().pause_writing()
        self._wait(self.limits.body_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting."""
        super().resume_writing()
        self._wait(None)

    def send_400_response(self, _msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(400, "This is not a valid HTTP request.")

    @property
    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        if not self._is_busy and self._timer is None:
            late = f"The head of a request must arrive within {self.limits.header_s:g} s."
            self._wait(self.limits.header_s, lambda: self._refuse(408, late))

    def _wait(self, seconds: float | None, then: Callable[[], object] = bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, then)

    def _refuse(self, status: int, text: str) -> None:
        """Send a line unless an answer has begun, listen to nothing more, and close a little later."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        if self._is_busy:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not self._is_busy or not self.cycle.response_started:
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\nRetry-After: 1\r\n"
            kind = f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(text) + 1}\r\n"
            self.transport.write(f"{head}{kind}\r\n{text}\n".encode())
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.abort)


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens, on a port of the system's choice for 0; raises EnvironmentProblem."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        raise EnvironmentProblem(f"{host}:{port} cannot be listened on: {exc.strerror or exc}.") from exc


def server_for(service: Service, limits: Limits) -> uvicorn.Server:
    """Return a server that heeds no signal: uvicorn ends by the signal that stopped it, not with 0."""
    config = uvicorn.Config(
        service,
        http=type("Connection", (Connection,), {"limits": limits}),
        loop="asyncio",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        h11_max_incomplete_event_size=MAX_HEAD,
        timeout_graceful_shutdown=limits.grace_s,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    return server


def serve(service: Service, limits: Limits, sock: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, and the grace longer for what is running; a second signal does as before."""
    server = server_for(service, limits)

    def stop(*_: Any) -> None:
        server.should_exit = True
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(server.serve(sockets=[sock]))
    finally:
        stop()
        service.pool.shutdown(wait=False, cancel_futures=True)
