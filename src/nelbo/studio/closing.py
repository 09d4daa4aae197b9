"""The end of a stream of answers, so that no answer is lost at it.

Gradio sends the answers of a visit over one stream, and closes it when none is expected. A page that hears of its next
event before it hears of the end waits for the answer on a stream that is closed. So the page hears of the end first.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

STREAM, JOIN = "/gradio_api/queue/data", "/gradio_api/queue/join"
LAST = b'"close_stream"'
PATIENCE = 2.0
"""Seconds for a page to close a stream whose end it was told."""
Message = MutableMapping[str, Any]


class Closing:
    """The visits whose stream is being closed."""

    def __init__(self) -> None:
        self.closed: dict[str, asyncio.Event] = {}

    async def stream(self, app: Any, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answer a request for the stream of a visit; after its last message, wait until the page closes it."""
        (visit,) = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[-1:]
        closed = asyncio.Event()
        end: list[Message] = []

        async def held(message: Message) -> None:
            if LAST in message.get("body", b""):
                self.closed[visit] = closed
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            if ended and self.closed.get(visit) is closed:
                end.append(message)
            else:
                await send(message)

        try:
            await app(scope, receive, held)
            if end:
                with suppress(TimeoutError):
                    await asyncio.wait_for(gone(receive), PATIENCE)
                await send(end[0])
        finally:
            closed.set()
            if self.closed.get(visit) is closed:
                del self.closed[visit]

    def after(self, body: bytes, send: Any) -> Any:
        """A ``send`` that tells a page of its next event after the end of a stream that is being closed."""
        visit = visit_of(body)

        async def later(message: Message) -> None:
            if visit in self.closed:
                await self.closed[visit].wait()
            await send(message)

        return later


def visit_of(body: bytes) -> str:
    """The visit that joins the queue.

    >>> visit_of(b'{"session_hash": "ab1"}')
    'ab1'
    """
    found = json.loads(body) if body else None
    return str(found.get("session_hash", "")) if isinstance(found, dict) else ""


async def gone(receive: Any) -> None:
    """Wait until the page closes its request."""
    while (await receive())["type"] != "http.disconnect":
        pass
