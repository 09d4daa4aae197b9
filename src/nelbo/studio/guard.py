"""The guard before Gradio: who may come in, which addresses are open, and which files a request may name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from nelbo.studio.closing import JOIN, STREAM, Closing
from nelbo.studio.safety import COOKIE, POLICY, Door

ROUTES = (
    *("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/assets/", "/static/", "/svelte/", "/ready"),
    *(
        "/gradio_api/queue/",
        "/gradio_api/upload",
        "/gradio_api/upload_progress",
        "/gradio_api/file=",
        "/gradio_api/heartbeat/",
    ),
    *("/gradio_api/startup-events", "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/app_id"),
    *("/gradio_api/theme.css", "/gradio_api/info"),
)
"""The addresses that the page uses; all others of Gradio are closed."""
UPLOADS = "/gradio_api/upload"
LONGEST = 8 * 2**20
"""Largest body of another request, in bytes."""
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


class Guard:
    """Lets requests through the door, on the addresses that the page uses, and adds headers to the answers.

    Args:
        app: the application behind it.
        door: who may come in.
        scratch: the folder of sent files.
    """

    def __init__(self, app: App, door: Door, scratch: Path) -> None:
        self.app, self.door, self.scratch, self.closing = app, door, scratch.resolve(), Closing()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode("latin-1")
        refusal = self.door.refusal(scope["method"], headers, query)
        if refusal is not None:
            await answer(send, 403, refusal)
            return
        if not is_open(scope["path"]):
            await answer(send, 404, "There is nothing here.")
            return
        token = self.door.asked(query)
        if token and self.door.token:
            cookie = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict"
            await answer(send, 303, "", [(b"location", b"/"), (b"set-cookie", cookie.encode())])
            return
        if scope["method"] == "POST" and scope["path"] != UPLOADS:
            body = await whole_body(receive)
            if body is None or not names_sent_files(body, self.scratch):
                await answer(send, 400, "This request is too long, or names a file that was not sent.")
                return
            receive = replayed(body)
            if scope["path"] == JOIN:
                send = self.closing.after(body, send)
        if scope["path"] == STREAM:
            await self.closing.stream(self.app, scope, receive, with_headers(send))
        else:
            await self.app(scope, receive, with_headers(send))


def is_open(path: str) -> bool:
    """Whether the page uses this address; those in ROUTES that end in a sign other than a letter are beginnings."""
    return any(
        path == route or (not route[-1].isalpha() and route != "/" and path.startswith(route)) for route in ROUTES
    ) or any(path.startswith(f"{route}/") for route in ROUTES if route != "/" and route[-1].isalpha())


async def whole_body(receive: Any) -> bytes | None:
    """The body of a request; None if it is too long, or the visitor has gone."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if message["type"] != "http.request" or len(body) > LONGEST:
            return None
    return body


def replayed(body: bytes) -> Any:
    """A ``receive`` that gives this body, and then waits."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    return receive


def names_sent_files(body: bytes, scratch: Path) -> bool:
    """Whether every file that a request names was sent before. Gradio reads, or fetches, any file that is named.

    >>> names_sent_files(b'{"data": [{"path": "https://example.org/a.png"}]}', Path("/tmp/scratch"))
    False
    >>> names_sent_files(b'{"data": [{"path": "/tmp/scratch/a.png"}, 3]}', Path("/tmp/scratch"))
    True
    """
    try:
        values = [json.loads(body)] if body else []
    except ValueError:
        return False
    while values:
        value = values.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if path is not None and not (isinstance(path, str) and Path(path).resolve().is_relative_to(scratch)):
                return False
            values += value.values()
        elif isinstance(value, list):
            values += value
    return True


def safe_headers() -> list[tuple[bytes, bytes]]:
    """The headers of every answer."""
    return [
        (b"content-security-policy", POLICY.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]


def with_headers(send: Any) -> Any:
    """A ``send`` that adds the headers."""

    async def more(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *safe_headers()]
        await send(message)

    return more


async def answer(send: Any, status: int, text: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Send a short answer."""
    plain = (b"content-type", b"text/plain; charset=utf-8")
    await send({"type": "http.response.start", "status": status, "headers": [plain, *headers, *safe_headers()]})
    await send({"type": "http.response.body", "body": text.encode()})
