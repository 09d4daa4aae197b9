"""The server: a first page at once, then the studio; both behind the same door."""

from __future__ import annotations

import errno
import logging
import secrets
import shutil
import socket
import tempfile
import threading
import webbrowser
from contextlib import suppress
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template

from nelbo.errors import InputError
from nelbo.jobs.progress import found_runs, progress_of
from nelbo.streams import Speaker
from nelbo.studio.guard import App, Guard, safe_headers
from nelbo.studio.safety import COOKIE, LOCAL, UPLOAD, Door, Folders
from nelbo.studio.trainings import Trainings

ASSETS = Path(__file__).parent / "assets"
PORT, TRIES = 7860, 20
SHOWN = 12
"""Runs on the first page."""


def serve(folders: Folders, host: str, port: int | None, open_browser: bool) -> None:
    """Run the studio until Ctrl-C.

    Args:
        folders: what may be read and written.
        host: the address to bind to.
        port: the port; None for the first free one from 7860 on.
        open_browser: whether to open the page in the browser.

    Raises:
        InputError: Gradio is missing, or the address cannot be used.
    """
    require_gradio()
    listening = bound(host, port)
    token = None if host in LOCAL else secrets.token_urlsafe(24)
    door = Door(host, listening.getsockname()[1], token)
    scratch = Path(tempfile.mkdtemp(prefix="nelbo-studio-"))
    first = FirstPage(listening, door, folders)
    say = Speaker(stderr=True, soft_wrap=True)
    say.print(f"nelbo studio on {', '.join(map(str, folders.roots))}")
    if token is not None:
        say.print("everyone with this address can read and change these folders")
    say.print("Ctrl-C ends it; trainings go on")
    print(door.address, flush=True)
    if open_browser:
        threading.Thread(target=webbrowser.open, args=(door.address,), daemon=True).start()
    try:
        app = Guard(studio_app(folders, scratch), door, scratch)
        first.close()
        run_app(app, listening)
    finally:
        first.close()
        listening.close()
        shutil.rmtree(scratch, ignore_errors=True)


def require_gradio() -> None:
    """Check that Gradio can be imported, without importing it.

    Raises:
        InputError: it is not installed.
    """
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise InputError("studio", "Gradio is not installed; pip install 'nelbo[studio]'")


def bound(host: str, port: int | None) -> socket.socket:
    """A listening socket.

    Raises:
        InputError: the host is unknown, or the port is in use.
    """
    for number in range(PORT, PORT + TRIES) if port is None else [port]:
        try:
            family = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0][0]
            found = socket.socket(family, socket.SOCK_STREAM)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((host, number))
            found.listen(128)
        except socket.gaierror:
            raise InputError("host", f"{host!r} is not a known address; use 127.0.0.1") from None
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise InputError("host", f"{host}: {error.strerror}") from None
        else:
            return found
    if port is None:
        raise InputError("port", f"no port from {PORT} to {PORT + TRIES - 1} is free; name another")
    raise InputError("port", f"{port} is in use or not allowed; name another, or leave it out")


def studio_app(folders: Folders, scratch: Path) -> App:
    """The studio, as an ASGI application. Gradio is imported here, while the first page is shown."""
    import os

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(scratch)
    os.environ["GRADIO_SSR_MODE"] = "False"
    import gradio as gr
    from fastapi import FastAPI

    from nelbo.studio.answers import warm
    from nelbo.studio.page import build_page, theme
    from nelbo.studio.studio import Studio

    page = build_page(Studio(folders, Trainings(folders), scratch))
    page.queue(api_open=False, default_concurrency_limit=4)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    threading.Thread(target=warm, daemon=True).start()
    mounted = gr.mount_gradio_app(
        app,
        page,
        "/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=UPLOAD,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css_paths=[ASSETS / "studio.css"],
    )
    page.has_launched = True  # or Gradio would take any file of the machine for one that a visitor has sent
    return mounted


def run_app(app: App, listening: socket.socket) -> None:
    """Serve an application on a socket until Ctrl-C."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1, lifespan="on")
    server = uvicorn.Server(config)
    logger = logging.getLogger("uvicorn.error")
    logger.addFilter(lambda _: not server.should_exit)  # open tabs are cut off then, which is no error
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


class FirstPage:
    """A page with the runs in the folders, served while the studio is imported.

    Args:
        listening: the socket, which stays open afterwards.
        door: who may come in.
        folders: the folders.
    """

    def __init__(self, listening: socket.socket, door: Door, folders: Folders) -> None:
        first = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                first.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.door, self.folders = door, folders
        self.server = ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False)
        self.server.socket.close()
        self.server.socket = listening
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a request: the page, or that the studio is not ready yet."""
        path, _, query = request.path.partition("?")
        headers = {name.lower(): value for name, value in request.headers.items()}
        refusal = self.door.refusal("GET", headers, query)
        more: list[tuple[str, str]] = []
        if refusal is not None:
            status, kind, text = 403, "text/plain", refusal
        elif path != "/":
            status, kind, text = 503, "text/plain", "The studio is starting."
        elif self.door.token and self.door.asked(query):
            status, kind, text = 303, "text/plain", ""
            more = [
                ("Location", "/"),
                ("Set-Cookie", f"{COOKIE}={self.door.asked(query)}; Path=/; HttpOnly; SameSite=Strict"),
            ]
        else:
            status, kind, text = 200, "text/html", first_page(self.folders)
        body = text.encode("utf-8", "replace")
        request.send_response(status)
        plain = [(name.decode(), value.decode()) for name, value in safe_headers()]
        for name, value in [
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            *more,
            *plain,
        ]:
            request.send_header(name, value)
        request.end_headers()
        with suppress(OSError):
            request.wfile.write(body)

    def close(self) -> None:
        """End this page; what comes from now on waits on the socket."""
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join()


def first_page(folders: Folders) -> str:
    """The runs in the folders, as HTML, which becomes the studio as soon as it is ready."""
    rows = []
    for path in found_runs(folders.roots)[:SHOWN]:
        with suppress(InputError):
            found = progress_of(folders.inside(path))
            how = "training now" if found.pid is not None else f"{found.share:.0%} trained"
            rows.append(f"<li><b>{escape(path.name)}</b> {escape(found.family)} on {escape(found.data)}, {how}</li>")
    shown = f"<ul>{''.join(rows)}</ul>" if rows else "<p>There are no runs here yet. The screen Train makes one.</p>"
    text = (ASSETS / "first.html").read_text(encoding="utf-8")
    return Template(text).substitute(runs=shown)
