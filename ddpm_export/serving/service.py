"""The application: a bounded queue before a few threads that sample. Opens no file and knows no model.

Slow clients wait in the event loop, never in a thread; a thread stops at the next step once nobody wants its answer.
"""

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from ddpm_export.errors import DdpmExportError, UsageError, printable
from ddpm_export.serving.asked import FORMATS, Limits, asked_from
from ddpm_export.serving.painting import Steps

FOREVER = "public, max-age=31536000, immutable"


class Line(PlainTextResponse):
    """An answer of one line; if the client is still sending, it is heard out for a while: else it sees a reset."""

    def __init__(self, status: int, text: str, linger_s: float = 0.0) -> None:
        headers = {"Connection": "close"} if linger_s else {}
        super().__init__(f"{printable(text)}\n", status, headers | ({"Retry-After": "1"} if status == 503 else {}))
        self._linger_s = linger_s

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the line, and hear the client out."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if self._linger_s:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_until(receive, "more_body"), self._linger_s)
        await send({"type": "http.response.body"})


async def _until(receive: Receive, last: str) -> None:
    """Receive until the request's last message, or with http.disconnect until the client is gone."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or (last == "more_body" and not message.get(last)):
            return


class Service:
    """Answer requests with what `steps` makes, within limits."""

    def __init__(self, steps: Steps, limits: Limits) -> None:
        self._steps, self._limits, self.pool = steps, limits, ThreadPoolExecutor(limits.running)
        self._room = threading.BoundedSemaphore(limits.running + limits.queue)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be the ASGI application."""
        with contextlib.suppress(ClientDisconnect):
            await (await self._answer(Request(scope, receive)))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        limits, path = self._limits, request.scope["path"]
        if not path.startswith("/") or path.startswith("//"):
            return Line(400, "A request's path must begin with one slash.")
        if path not in ("/", "/healthz"):
            return Line(404, "Ask for /?seed=7&n=4.")
        if request.method not in ("GET", "HEAD", "POST"):
            return Line(405, "Use GET or POST.")
        if path == "/healthz":
            return Line(200, "ok")
        try:
            body = await asyncio.wait_for(self._body(request), limits.body_s)
            if len(body) > limits.max_body:
                return Line(413, f"The body must have at most {limits.max_body} bytes.", limits.body_s)
            query = request.scope["query_string"].decode("latin-1")
            return await self._made(request, await asyncio.to_thread(asked_from, query, body))
        except DdpmExportError as exc:
            return Line(400 if isinstance(exc, UsageError) else 500, str(exc))
        except asyncio.TimeoutError:
            return Line(408, f"The body must arrive within {limits.body_s:g} s.", limits.body_s)
        except asyncio.CancelledError:  # the grace after SIGTERM is over
            return Line(503, "The server is stopping.")

    async def _body(self, request: Request) -> bytes:
        """Return the body, or more bytes than a body may have."""
        body, most = bytearray(), self._limits.max_body
        if int(request.headers.get("content-length", 0)) > most:
            return bytes(most + 1)
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                break
        return bytes(body)

    async def _made(self, request: Request, asked: dict[str, Any]) -> Response:
        if not self._room.acquire(blocking=False):
            return Line(503, "The server is busy. Try again later.")
        stop = threading.Event()
        job = self.pool.submit(self._work, asked, request.headers.get("if-none-match", ""), stop)
        job.add_done_callback(lambda _: self._room.release())
        made, gone = asyncio.wrap_future(job), asyncio.ensure_future(_until(request.receive, "http.disconnect"))
        try:
            both: set[asyncio.Future[Any]] = {made, gone}
            limit_s = self._limits.answer_s
            done, _ = await asyncio.wait(both, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if made not in done:
                if gone in done:
                    raise ClientDisconnect
                return Line(503, f"The answer takes longer than {limit_s:g} s. Ask for less, or try again later.")
            tag, content = made.result()
            headers = {"ETag": tag, "Cache-Control": FOREVER, "Content-Type": FORMATS[asked.get("format", "png")]}
            return Response(content, 304 if content is None else 200, headers)
        finally:
            stop.set()
            made.cancel()
            gone.cancel()

    def _work(self, asked: dict[str, Any], known: str, stop: threading.Event) -> tuple[str, bytes | None]:
        """Return the answer's tag, and the answer unless the client knows it or wants it no longer."""
        steps = self._steps(asked)
        tag = f'"{next(steps)!s}"'
        for value in () if tag in known else steps:
            if isinstance(value, bytes):
                return tag, value
            if stop.is_set():
                break
        return tag, None
