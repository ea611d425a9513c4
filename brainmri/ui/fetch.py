"""Inputs given as URLs: fetched from public hosts only, with limits on size and time."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import AsyncIterator
from typing import cast

import httpx
from gradio import processing_utils
from safehttpx import AsyncSecureTransport

MAX_FILE = 512 * 2**20  # bytes, of an upload too
FETCH_SECONDS = 60


class FetchRefused(Exception):
    """An input URL that must not or cannot be fetched. The message says why."""


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
        self.stream, self.left, self.until = stream, MAX_FILE, time.monotonic() + FETCH_SECONDS

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self.stream:
            self.left -= len(chunk)
            if self.left < 0 or time.monotonic() > self.until:
                raise FetchRefused(f"the response exceeds {MAX_FILE // 2**20} MiB or {FETCH_SECONDS} seconds")
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
    except (OSError, UnicodeError) as error:
        raise FetchRefused("unknown host") from error
    for address in map(str, found):
        ip = ipaddress.ip_address(address.partition("%")[0])
        embeds = ip.version == 6 and (ip.sixtofour or ip.teredo or ip in ipaddress.ip_network("64:ff9b::/96"))  # embedded IPv4
        if not ip.is_global or ip.is_multicast or embeds:
            raise FetchRefused("the host is not public")
    return min(map(str, found))


async def get(url: str) -> httpx.Response:
    """Get a URL as Gradio does; an address that does not answer with a file is the caller's error.

    Raises:
        FetchRefused: if the host is not public, unknown or does not answer, or if it answers with an error.
    """
    try:
        response = await _gradio_get(url)
    except httpx.TimeoutException as error:
        raise FetchRefused("the host did not answer in time") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise FetchRefused("the host could not be reached") from error
    if response.status_code != 200:
        raise FetchRefused(f"the host answered with status {response.status_code}")
    return response


_gradio_get = processing_utils.async_ssrf_protected_get


def install() -> None:
    """Make Gradio fetch by `get` and `PublicTransport`; its own has no size limit and treats 100.64.0.0/10 as public."""
    processing_utils.async_transport = PublicTransport()
    processing_utils.async_ssrf_protected_get = get
