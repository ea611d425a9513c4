"""The HTML document that a browser loads first: a loading screen until the page is built, and the page's own description."""

from __future__ import annotations

import re

from starlette._utils import get_route_path  # the path without the root path, as the router takes it
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from brainmri.ui.common import ASSETS

HEAD = ASSETS / "head.html"
PREVIEWS = re.compile(rb"<meta\s+(property=\"og:|name=\"twitter:)[^>]*>")  # of Gradio, for links to the page


class DocumentHead:
    """ASGI middleware that puts `assets/head.html` into the document, in place of Gradio's own description.

    Gradio's `head` option does so by script, after the first layout shifts.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.head = app, HEAD.read_bytes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or get_route_path(scope) not in ("", "/"):
            return await self.app(scope, receive, send)
        started: list[Message] = []
        parts: list[bytes] = []

        async def send_changed(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.append(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            body = PREVIEWS.sub(b"", b"".join(parts)).replace(b"</head>", self.head + b"</head>", 1)
            MutableHeaders(scope=started[0])["content-length"] = str(len(body))
            await send(started[0])
            await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, send_changed)
