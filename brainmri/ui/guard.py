"""Protection that Gradio lacks: limits on request bodies, and files that browsers never run."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from gradio.route_utils import FnIndexInferError
from starlette._utils import get_route_path  # the path without the root path, as the router takes it
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from brainmri.io.limits import MAX_STUDY_BYTES
from brainmri.ui import cache
from brainmri.ui.blocks import DISK_FULL, call_status, disk_is_full, run_off_loop

MAX_UPLOADS = MAX_STUDY_BYTES + 2**24  # bytes of an upload of several files, including the form
MAX_REQUEST = 16 * 2**20  # bytes of any other request; parsing it holds up all visitors
DRAIN_BYTES, DRAIN_SECONDS = 16 * 2**20, 2.0  # of a refused body that are read all the same
MAX_VALUES = 100_000  # values in a request's JSON; a file of a study has about ten
UPLOAD_ROUTE = re.compile("/gradio_api/upload/?")
RESULT_ROUTE = re.compile("/gradio_api/call/[^/]+/(?P<event>[^/]+)/?")
CALL_ROUTE = re.compile("/gradio_api/(call/v2|call|run|api)/(?P<name>[^/]+)/?")
FILE_ROUTE = re.compile("/gradio_api/file[=/](?P<path>.*)", re.DOTALL)
NO_RESULT = "There is no such result; each is delivered once. Please call the endpoint again."
# a file opened in a browser runs no scripts, has no origin and fetches nothing
FILE_POLICY = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; sandbox"


class RequestGuard:
    """ASGI middleware that limits request bodies and sets security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = get_route_path(scope)
        file, uploads = FILE_ROUTE.match(path), UPLOAD_ROUTE.fullmatch(path)
        if file and file["path"].startswith(("http:", "https:")):  # Gradio would proxy it
            return await PlainTextResponse("Remote files are not served.", 403)(scope, receive, send)
        result = RESULT_ROUTE.fullmatch(path) if scope["method"] == "GET" else None
        if result and not has_result(scope["app"], result["event"]):
            return await JSONResponse({"detail": NO_RESULT}, 404)(scope, receive, send)
        max_bytes = MAX_UPLOADS if uploads else MAX_REQUEST
        limited, answer = LimitedBody(receive, max_bytes), {}
        call_status.set(answer)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == 500:
                    message["status"] = answer.get("status", 500)
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                if file:
                    headers["Content-Security-Policy"] = FILE_POLICY
            await send(message)

        try:
            if uploads and cache.is_full():
                raise HTTPException(507, DISK_FULL)
            limited.check_length(Headers(scope=scope).get("content-length", "0"))
            if uploads:
                return await call_off_loop(self.app, scope, limited, send_with_headers)
            await limited.read()
            await self.app(scope, limited, send_with_headers)
        except HTTPException as error:
            await limited.drain()
            await PlainTextResponse(error.detail, error.status_code)(scope, receive, send_with_headers)
        except Exception as error:
            response = describe_call_error(path, error)
            if disk_is_full(error):  # an upload
                response = PlainTextResponse(DISK_FULL, 507)
            if response is None:
                raise
            await response(scope, receive, send)  # none was sent yet


def has_result(app: Any, event_id: str) -> bool:
    """Whether the result of a call is still to be delivered by a Gradio app; for another one its stream would break or hang."""
    return any(event_id in ids for ids in [*app.get_blocks()._queue.pending_event_ids_session.values()])


def describe_call_error(path: str, error: Exception) -> Response | None:
    """The response to an upload of text, or a call without endpoint or argument, for which Gradio raises errors; else None."""
    if UPLOAD_ROUTE.fullmatch(path) and isinstance(error, TypeError):  # text instead of a file
        return JSONResponse({"detail": "Expected files in the form's field 'files', got text."}, 422)
    call = CALL_ROUTE.fullmatch(path)
    if call and isinstance(error, KeyError | FnIndexInferError):
        return JSONResponse({"detail": f"Unknown endpoint {call['name']!r}; /gradio_api/info lists them."}, 404)
    if call and isinstance(error, TypeError | ValueError):  # a missing or an unknown argument
        problem = str(error).partition(" Please click")[0].rstrip(".")
        return JSONResponse({"detail": f"{problem}; /gradio_api/info lists the parameters."}, 422)
    return None


async def call_off_loop(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Call an application in a thread, since Gradio writes, hashes and renames uploaded files on the event loop.

    The request's messages still pass through the server's loop.
    """
    server_loop = asyncio.get_running_loop()

    def on_server_loop(function: Callable[..., Awaitable]) -> Callable[..., Awaitable]:
        async def call(*message: Message):
            async def run():
                return await function(*message)

            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), server_loop))

        return call

    await run_off_loop(app, scope, on_server_loop(receive), on_server_loop(send))


class LimitedBody:
    """A request's body: the ASGI `receive` function of a request, with limits.

    Args:
        receive: the server's function.
        max_bytes: the largest number of bytes.
    """

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self.receive, self.max_bytes, self.received = receive, max_bytes, 0
        self.messages: list[Message] = []  # those that were read ahead
        self.complete = False  # whether the server has given the last message

    async def __call__(self) -> Message:
        if self.messages:
            return self.messages.pop(0)
        message = await self._receive()
        self.received += len(message.get("body", b""))
        self.check_length(self.received)
        return message

    async def _receive(self) -> Message:
        message = await self.receive()
        self.complete = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Discard the rest of a refused body, up to a limit: a proxy answers 502 if the server closes before it has sent all."""
        drained = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.complete and drained < DRAIN_BYTES:
                    drained += len((await self._receive()).get("body", b""))

    def check_length(self, length: str | int) -> None:
        """Refuse a body of more than the limit.

        Raises:
            HTTPException: 413, or 400 for a length that is no number.
        """
        if not str(length).isdecimal():
            raise HTTPException(400, "expected a number as content-length")
        if int(length) > self.max_bytes:
            raise HTTPException(413, f"Request too large: the limit is {self.max_bytes // 2**20} MiB.")

    async def read(self) -> None:
        """Read the whole body ahead, and refuse JSON with too many values before anything parses it.

        Raises:
            HTTPException: 413.
        """
        messages, values = [], 0
        while True:
            messages.append(message := await self())
            values += sum(message.get("body", b"").count(sign) for sign in (b",", b"[", b"{"))
            if values > MAX_VALUES:
                raise HTTPException(413, f"Too many values: the limit is {MAX_VALUES}. Send a study's files in a zip.")
            if not message.get("more_body"):
                break
        self.messages = messages
