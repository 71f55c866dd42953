"""The app's server besides Streamlit's own pages: it serves pictures, and hides where the project lies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench.study import StudyError
from bench.study.app.service import LOG, asked, service
from bench.study.cli import APP
from bench.study.images import ImageChanged

if TYPE_CHECKING:
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PICTURES = "pictures"
"""The first part of a picture's address."""


def routes() -> list[Route]:
    """``/pictures/GROUP/PICTURE``, below Streamlit's own base path where there is one."""
    import streamlit as st
    from starlette.routing import Route

    base = str(st.get_option("server.baseUrlPath") or "").strip("/")
    return [Route(f"{'/' + base if base else ''}/{PICTURES}/{{group}}/{{picture}}", picture)]


def picture(request: Request) -> Response:
    """A picture of a trial: 404 for what is no address, 410 where its file was changed. In a thread."""
    from starlette.responses import Response

    try:
        given = asked(sys.argv[1:])
        found = service(given.store, given.study).picture(**request.path_params)
    except ImageChanged:
        return Response(status_code=410)
    except StudyError as error:
        LOG.warning("%s", error)
        return Response(status_code=404)
    headers = {
        # For a reload of the page. Never compressed: the length would hang on what the picture shows.
        "Cache-Control": "private, max-age=3600, immutable",
        "Content-Encoding": "identity",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(found.png, media_type="image/png", headers=headers)


def middleware() -> list[Middleware]:
    from starlette.middleware import Middleware

    return [Middleware(Placeless)]


class Placeless:
    """ASGI middleware: Streamlit tells every browser where its script lies; here it says the bare name."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def placeless(message: Message) -> None:
            if message["type"] == "websocket.send" and message.get("bytes"):
                message = {**message, "bytes": without_place(message["bytes"])}
            await send(message)

        await self.app(scope, receive, placeless if scope["type"] == "websocket" else send)


def without_place(frame: bytes) -> bytes:
    """A frame that Streamlit sends, without the folder of its script."""
    if str(APP.parent).encode() not in frame:
        return frame
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    message = ForwardMsg.FromString(frame)
    if message.HasField("new_session"):
        message.new_session.main_script_path = Path(message.new_session.main_script_path).name
    return bytes(message.SerializeToString())
