"""Faults of the stand-in Hub: responses that are refused, cut, damaged or slow."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from tests.support.hub_server import Hub

SLOW_PARTS = 8
SLOW_DELAY = 0.25  # seconds between the parts of a slow body
INVERTED = bytes(255 - value for value in range(256))


@dataclass(frozen=True)
class Fault:
    """A fault to inject into responses: the next `times` (None: all) of a method (None: any) whose path contains `path`.

    Every kind except "status" changes the body of the Hub's real response: a commit whose response is cut has happened.
    Responses to HEAD have no body and are not changed, so the client knows the true size of a truncated file.
    """

    method: Literal["GET", "HEAD", "POST", "PUT"] | None
    path: str
    kind: Literal["status", "slow", "cut", "truncate", "garble"]
    times: int | None = 1
    retry_after: float = 0
    status: int = 500

    def hits(self, method: str, path: str) -> bool:
        return self.method in (None, method) and self.path in path and (self.kind == "status" or method != "HEAD")


class HubError(Exception):
    """An error response of the Hub; the client chooses its exception by the X-Error-Code."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        self.response = JSONResponse({"error": message}, status, {"X-Error-Message": message, **headers})
        if code:
            self.response.headers["X-Error-Code"] = code


class FaultInjector:
    """Middleware that records every response and applies the faults."""

    def __init__(self, app: ASGIApp, hub: Hub) -> None:
        self.app, self.hub = app, hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        fault = self.hub.take_fault(method, path)
        kind = fault.kind if fault else None
        response: list[Message] = []

        async def keep(message: Message) -> None:
            response.append(message)

        if fault and kind == "status":
            while (await receive()).get("more_body"):
                pass  # the client reads the response only after sending the whole request
            retry = {"Retry-After": f"{fault.retry_after:g}"} if fault.retry_after else {}
            await HubError(fault.status, "Injected fault", **retry).response(scope, receive, keep)
        else:
            await self.app(scope, receive, keep)

        start, body = response[0], b"".join(message["body"] for message in response[1:])
        if kind == "truncate":
            body = body[: len(body) // 2]
            MutableHeaders(scope=start)["Content-Length"] = str(len(body))
        elif kind == "garble":
            body = body.translate(INVERTED)
        self.hub.requests.append((method, path, start["status"]))
        await send(start)
        if kind == "cut":
            # the server closes the connection after an unfinished response
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            return
        if kind == "slow":
            step = len(body) // SLOW_PARTS + 1
            for at in range(0, len(body), step):
                await send({"type": "http.response.body", "body": body[at : at + step], "more_body": True})
                await asyncio.sleep(SLOW_DELAY)
            body = b""
        await send({"type": "http.response.body", "body": body})
