"""Protection that Gradio lacks: limits on request bodies, fetches from public hosts only, files that browsers never run."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import time
from collections.abc import AsyncIterator
from typing import cast

import httpx
from gradio import processing_utils
from safehttpx import AsyncSecureTransport
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from brainmri.io.images import MAX_BYTES
from brainmri.io.limits import MAX_STUDY_BYTES
from brainmri.ui.blocks import DISK_FULL, disk_is_full

MAX_UPLOAD = 512 * 2**20  # bytes of one file
MAX_UPLOADS = MAX_STUDY_BYTES + 2**24  # bytes of an upload of several files, including the form
MAX_REQUEST = 2 * MAX_BYTES  # bytes of any other request, which may hold a slice as a data: URL
FETCH_SECONDS = 60
FILE_ROUTE = re.compile("/gradio_api/file[=/](?P<path>.*)", re.DOTALL)
# a file opened in a browser runs no scripts, has no origin and fetches nothing
FILE_POLICY = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; sandbox"


class RequestGuard:
    """ASGI middleware that limits request bodies and sets security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        file = FILE_ROUTE.match(scope["path"])
        if file and file["path"].startswith(("http:", "https:")):  # Gradio would proxy it
            return await PlainTextResponse("Remote files are not served.", 403)(scope, receive, send)
        most = MAX_UPLOADS if scope["path"].endswith("/gradio_api/upload") else MAX_REQUEST
        too_much = f"Request too large: the limit is {most // 2**20} MiB."
        if int(Headers(scope=scope).get("content-length", 0)) > most:
            return await PlainTextResponse(too_much, 413)(scope, receive, send)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise HTTPException(413, too_much)
            return message

        async def inert(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                if file:
                    headers["Content-Security-Policy"] = FILE_POLICY
            await send(message)

        try:
            await self.app(scope, counted, inert)
        except Exception as error:
            if not disk_is_full(error):
                raise
            await PlainTextResponse(DISK_FULL, 507)(scope, receive, send)  # an upload; no response was sent yet


class FetchRefused(Exception):
    """An input URL that must not be fetched."""


class PublicTransport(httpx.AsyncBaseTransport):
    """HTTP transport for inputs given as URLs: public hosts only, up to the upload limit."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and limit the response's body in bytes and time.

        Raises:
            FetchRefused: if the host is not public or the response is compressed.
        """
        address = await public_address(request.url.host)
        request.headers["Accept-Encoding"] = "identity"
        response = cast(httpx.Response, await AsyncSecureTransport(address).handle_async_request(request))
        if "content-encoding" in response.headers:
            raise FetchRefused("the response is compressed")
        return httpx.Response(
            response.status_code, headers=response.headers, stream=LimitedStream(cast(httpx.AsyncByteStream, response.stream))
        )


class LimitedStream(httpx.AsyncByteStream):
    """A stream that raises `FetchRefused` when it is too long or takes too long."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self.stream, self.left, self.until = stream, MAX_UPLOAD, time.monotonic() + FETCH_SECONDS

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self.stream:
            self.left -= len(chunk)
            if self.left < 0 or time.monotonic() > self.until:
                raise FetchRefused(f"the response exceeds {MAX_UPLOAD // 2**20} MiB or {FETCH_SECONDS} seconds")
            yield chunk

    async def aclose(self) -> None:
        await self.stream.aclose()


async def public_address(host: str) -> str:
    """Resolve a host to the address to connect to, so that a second DNS lookup cannot change it.

    Raises:
        FetchRefused: if the host is unknown or any of its addresses is not public.
    """
    try:
        found = {entry[4][0] for entry in await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise FetchRefused("unknown host") from error
    for address in map(str, found):
        ip = ipaddress.ip_address(address.partition("%")[0])
        embeds = ip.version == 6 and (ip.sixtofour or ip.teredo or ip in ipaddress.ip_network("64:ff9b::/96"))  # embedded IPv4
        if not ip.is_global or ip.is_multicast or embeds:
            raise FetchRefused("the host is not public")
    return min(map(str, found))


def install_public_transport() -> None:
    """Make Gradio fetch with `PublicTransport`; its own transport has no size limit and treats 100.64.0.0/10 as public."""
    processing_utils.async_transport = PublicTransport()
