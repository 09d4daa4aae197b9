"""Fixtures: a server, and small versions of the named sets."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer

import pytest
from data_helpers import HELD, STEMS, TEST, TRAIN, Server, cifar_files, handler, idx_bytes, md5, tar_of, tiny_arrays

from nelbo.data.sources import Source, SourceFile


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(state)) as httpd:
        state.url = f"http://127.0.0.1:{httpd.server_port}/"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        state.done.set()
        httpd.shutdown()
        thread.join()


@pytest.fixture
def tiny() -> Callable[..., tuple[Source, dict[str, bytes]]]:
    """A set like MNIST in small: its source, and its files as published."""

    def make(url: str = "http://127.0.0.1:9/", md5_of: str = "contents") -> tuple[Source, dict[str, bytes]]:
        files, published = [], {}
        for stem, values in zip(STEMS, tiny_arrays(), strict=True):
            contents = idx_bytes(values)
            archive = gzip.compress(contents, mtime=0)
            published[f"{stem}.gz"] = archive
            digest = md5(contents if md5_of == "contents" else archive)
            names = (stem, stem.replace("-idx", ".idx"))
            files.append(SourceFile(names, ".gz", (f"{url}{stem}.gz",), digest, md5_of, 10_000))  # type: ignore[arg-type]
        source = Source("tiny", "idx", ("tiny",), tuple(files), tuple("0123456789"), (1, 4, 5), TRAIN, TEST, HELD)
        return source, published

    return make


@pytest.fixture
def tiny_cifar() -> Callable[..., tuple[Source, bytes]]:
    """A set like CIFAR-10 in small: its source and its archive, which holds more than is wanted."""

    def make(url: str = "http://127.0.0.1:9/") -> tuple[Source, bytes]:
        members = {f"cifar-10-batches-bin/{name}": data for name, data in cifar_files().items()}
        archive = tar_of({"../../evil.txt": b"evil", **members, "cifar-10-batches-bin/readme.html": b"hello"})
        name = "cifar-10-binary.tar.gz"
        file = SourceFile((name,), "", (f"{url}{name}",), md5(archive), "archive", 100_000)
        folders = ("tiny-cifar", "tiny-cifar/cifar-10-batches-bin")
        return Source("tiny-cifar", "cifar", folders, (file,), tuple("abcdefghij"), (3, 4, 5), 10, 2, 3), archive

    return make
