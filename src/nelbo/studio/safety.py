"""What a visitor may reach: paths in the given folders alone, from this machine or with a token."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qs

from nelbo.errors import InputError

LOCAL = ("127.0.0.1", "localhost", "::1")
"""The hosts that need no token."""
COOKIE = "nelbo_studio"
PLAIN = re.compile(r"[^\W_][\w .+-]{0,99}")
"""The names of new runs: letters, digits and a few signs, no path."""
UPLOAD = 16 * 2**20
"""Largest size of an uploaded file, in bytes."""
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "frame-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""The content security policy: a browser sends no request to another host, whatever the page asks for."""


class Folders:
    """The folders whose files can be read and written.

    Args:
        paths: folders or runs that exist.

    Raises:
        InputError: one of them is not a folder.
    """

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self.roots = tuple(dict.fromkeys(Path(path).expanduser().resolve() for path in paths))
        for root in self.roots:
            if not root.is_dir():
                raise InputError(str(root), "is not a folder; name folders of runs or images")

    def inside(self, path: str | Path) -> Path:
        """The path without links and dots, if it is in one of the folders.

        Raises:
            InputError: it is elsewhere, or is no path.
        """
        try:
            found = Path(path).expanduser().resolve()
        except (OSError, ValueError, RuntimeError):  # a NUL, a loop of links, an unknown home
            raise InputError("path", "this is not the path of a file or folder; choose another") from None
        if not any(found.is_relative_to(root) for root in self.roots):
            listed = ", ".join(map(str, self.roots))
            raise InputError("path", f"{path} is outside of the studio's folders ({listed}); start it with that folder")
        return found

    def has(self, path: str | Path) -> bool:
        """Whether the path is in one of the folders."""
        try:
            self.inside(path)
        except InputError:
            return False
        return True

    def contained(self, path: str | Path) -> Path:
        """The path, if it and everything in it are in the folders, also what links lead to.

        Raises:
            InputError: a link leads elsewhere, or the path is elsewhere.
        """
        found = self.inside(path)
        for each in links_below(found, set()):
            if not any(each.resolve().is_relative_to(root) for root in self.roots):
                raise InputError(str(each), "is a link to a place outside of the studio's folders; remove the link")
        return found

    def new(self, name: str) -> Path:
        """The path of a new run with this name, in the first folder that is no run.

        Raises:
            InputError: the name is a path or has unusual signs, or every folder is a run.
        """
        from nelbo.config.names import CONFIG

        if not PLAIN.fullmatch(name):
            raise InputError("name", f"{name!r} must be letters, digits, spaces, or any of . _ + -, without a path")
        homes = [root for root in self.roots if not (root / CONFIG).exists()]
        if not homes:
            raise InputError("name", "the studio was started with a run, so there is no folder for a new one")
        return self.inside(homes[0] / name)


def links_below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """All links in a folder and below, also below the folders that links lead to."""
    if folder in seen:
        return
    seen.add(folder)
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink():
                yield path
                if path.is_dir():
                    yield from links_below(path.resolve(), seen)


class Door:
    """Who may come in.

    Args:
        host: the address that the studio is bound to.
        port: its port.
        token: what a visitor must have; None on this machine alone.
    """

    def __init__(self, host: str, port: int, token: str | None) -> None:
        self.host, self.port, self.token = host, port, token

    @property
    def address(self) -> str:
        """The address to open, with the token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def refusal(self, method: str, headers: Mapping[str, str], query: str) -> str | None:
        """Why a request is refused, as a sentence; None if it is not.

        Args:
            method: of the request.
            headers: its headers, with names in lower case.
            query: the part of its address behind the question mark.
        """
        host = headers.get("host", "")
        if self.token is None and host_name(host) not in LOCAL:
            return "This studio answers only on 127.0.0.1."  # a name of another site that leads here is refused
        origin = headers.get("origin")
        if method not in ("GET", "HEAD") and origin is not None and origin.partition("://")[2] != host:
            return "This request comes from another site."
        if self.token is not None and not self.knows(headers, query):
            return "Open the address with the token that 'nelbo studio' printed."
        return None

    def knows(self, headers: Mapping[str, str], query: str) -> bool:
        """Whether a request has the token, in its address or its cookie."""
        given = self.asked(query) or cookie_of(headers.get("cookie", ""))
        return self.token is None or hmac.compare_digest(given.encode(), self.token.encode())

    def asked(self, query: str) -> str:
        """The token in an address, or ""."""
        return parse_qs(query).get("token", [""])[0]


def host_name(host: str) -> str:
    """The host without its port.

    >>> host_name("127.0.0.1:7860"), host_name("[::1]:80"), host_name("localhost")
    ('127.0.0.1', '::1', 'localhost')
    """
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def cookie_of(header: str) -> str:
    """The studio's cookie in a header, or ""."""
    parts = (part.strip().partition("=") for part in header.split(";"))
    return next((value for name, _, value in parts if name == COOKIE), "")
