"""Download one file over HTTP: resumable, with a size limit, and renamed only after a check.

Written by hand because the standard library does none of these, and a library would be a dependency for every user.
"""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nelbo.data.idx import md5_of
from nelbo.data.progress import progress_bar
from nelbo.data.sources import SourceFile
from nelbo.errors import InputError

CHUNK = 1 << 16
TIMEOUT = 30.0
"""Seconds to wait for a response, and for each piece of it."""
SLOWEST = 1000
"""Bytes per second; a slower server is abandoned."""
TRIES = 3


class MirrorError(Exception):
    """A URL did not provide the file; the message gives the reason."""


def download(file: SourceFile, target: Path) -> None:
    """Download a file from the first of its URLs that provides it completely.

    The bytes go to ``target`` with ``.part`` appended, which a later call resumes. The file is renamed to ``target``
    after its digest has been checked. Processes that want the same file take turns.

    Args:
        file: the file to download.
        target: its path.

    Raises:
        InputError: the folder is not writable, or the contents are wrong.
        MirrorError: no URL provided the file.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(target.parent):
            if not target.exists():
                fetch_from_any(file, target)
    except OSError as error:
        raise InputError(str(target), f"cannot be written: {error.strerror or error}") from None


def fetch_from_any(file: SourceFile, target: Path) -> None:
    """Try the URLs in order; an error about the file has priority over one about a URL."""
    part = target.with_name(f"{target.name}.part")
    reasons: list[str] = []
    damage: InputError | None = None
    # The partial file may not be a beginning of this file, so the first URL is tried again without it.
    for url in (*file.urls[: part.exists()], *file.urls):
        try:
            fetch_whole(url, part, file.limit)
            check_digest(file, part, target.name)
        except MirrorError as error:
            reasons.append(str(error))
        except InputError as error:
            damage = error
            part.unlink(missing_ok=True)
        else:
            os.replace(part, target)
            return
    if damage is not None:
        raise damage
    raise MirrorError("; ".join(dict.fromkeys(reasons)))


def check_digest(file: SourceFile, path: Path, name: str) -> None:
    """Compare a download with its published digest."""
    try:
        found = md5_of(path, contents=file.md5_of == "contents")
    except InputError as error:
        raise InputError(name, f"the downloaded file {error.problem}") from None
    if found != file.md5:
        raise InputError(name, f"the downloaded file has the MD5 {found}, not {file.md5}; try again later")


def fetch_whole(url: str, part: Path, limit: int) -> None:
    """Download one URL to ``part``, resuming a few times after broken connections."""
    for attempt in range(TRIES):
        before = part.stat().st_size if part.exists() else 0
        try:
            if fetch_once(url, part, limit):
                return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or before == 0:
                raise MirrorError(f"{error.code} {error.reason} from {url}") from None
            part.unlink()  # it was not a beginning of this file
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            if attempt == TRIES - 1 or not isinstance(error, ConnectionError | http.client.HTTPException):
                raise MirrorError(f"{reason} at {url}") from None
    raise MirrorError(f"the connection to {url} broke repeatedly")


def fetch_once(url: str, part: Path, limit: int) -> bool:
    """Make one request. Returns whether the file is complete."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "nelbo", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        start, total = extent(answer, have)
        if total is not None and total > limit:
            raise MirrorError(f"{url} offers {total} bytes, more than the limit of {limit}")
        with part.open("r+b" if start else "wb") as sink, progress_bar(part.stem, total, bytes_=True) as step:
            sink.seek(start)
            step(start)
            stop = copy(answer, sink, start, limit, step)
    if stop > limit:
        part.unlink()
        raise MirrorError(f"{url} sends more than the limit of {limit} bytes")
    return total is None or stop == total


def extent(answer: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """The offset of the response in the file, and the length of the file, if the response states it."""
    ranged = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
    if answer.status == http.client.PARTIAL_CONTENT and ranged and int(ranged[1]) == have:
        return have, int(ranged[2])
    if answer.status == http.client.PARTIAL_CONTENT:
        raise MirrorError("the server sent a different range than requested")
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def copy(source: http.client.HTTPResponse, sink: BinaryIO, start: int, limit: int, step: Callable[[int], None]) -> int:
    """Copy until the end, or just past the limit. Returns the position reached.

    Raises:
        TimeoutError: the server sends nothing, or too slowly.
    """
    position, looked = start, (time.monotonic(), start)
    while position <= limit and (piece := source.read1(CHUNK)):
        sink.write(piece)
        position += len(piece)
        step(len(piece))
        since = time.monotonic() - looked[0]
        if since > TIMEOUT:
            if position - looked[1] < SLOWEST * since:
                raise TimeoutError(f"fewer than {SLOWEST} bytes per second")
            looked = (time.monotonic(), position)
    return position


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes, if the system has such locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
