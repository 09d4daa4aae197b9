"""No answer is lost at the end of a stream: a page that joins then hears of the end first."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from nelbo.studio import closing

CLOSE = b'data: {"msg": "close_stream"}\n\n'


async def stream(_: Any, __: Any, send: Any) -> None:
    """An application whose stream ends at once."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b'data: {"msg": "process_completed"}\n\n', "more_body": True})
    await send({"type": "http.response.body", "body": CLOSE, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def visit(join: str, leaves: bool = True) -> list[str]:
    """What a page hears, in order, that joins while its stream ends, and closes the stream when it is told to."""
    heard: list[str] = []
    told, joined = asyncio.Event(), asyncio.Event()
    found = closing.Closing()

    async def to_page(message: Any) -> None:
        if message.get("body") == CLOSE:
            told.set()
            await joined.wait()  # the join is answered by the application before the page hears of the end
            heard.append("end")

    async def from_page() -> Any:
        await told.wait()
        if leaves:
            await asyncio.sleep(0.05)
        else:
            await asyncio.sleep(60)
        heard.append("page closes")
        return {"type": "http.disconnect"}

    async def answer(message: Any) -> None:
        heard.append(f"joined {message['status']}")

    async def joins() -> None:
        await told.wait()
        send = found.after(json.dumps({"session_hash": join}).encode(), answer)
        joined.set()
        await send({"type": "http.response.start", "status": 200})

    scope = {"query_string": b"session_hash=ab1"}
    await asyncio.gather(found.stream(stream, scope, from_page, to_page), joins())
    assert not found.closed
    return heard


def test_a_join_is_answered_after_the_end_of_the_stream() -> None:
    assert asyncio.run(visit("ab1")) == ["end", "page closes", "joined 200"]


def test_another_visit_does_not_wait() -> None:
    assert asyncio.run(visit("cd2"))[0] == "joined 200"


def test_a_page_that_never_closes_its_stream_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "PATIENCE", 0.1)
    assert asyncio.run(visit("ab1", leaves=False)) == ["end", "joined 200"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"3"])
def test_a_join_without_a_visit_is_of_none(body: bytes) -> None:
    assert closing.visit_of(body) == ""
