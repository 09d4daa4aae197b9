"""Downloads, from a local server only."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from data_helpers import md5, random_pixels, tiny_arrays

from nelbo.data import download as downloads
from nelbo.data import load
from nelbo.data.download import MirrorError, download
from nelbo.data.sources import SOURCES, SourceFile
from nelbo.errors import InputError

DATA = random_pixels((200_000,)).tobytes()
NOWHERE = "http://127.0.0.1:9/"


def described(url: str, data: bytes = DATA, limit: int = 1_000_000) -> SourceFile:
    return SourceFile(("file",), "", (f"{url}file",), md5(data), "archive", limit)


def test_a_whole_file(server, tmp_path):
    server.files["file"] = DATA
    target = tmp_path / "deep" / "file"
    download(described(server.url), target)
    assert target.read_bytes() == DATA
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_broken_connection_is_continued(server, tmp_path):
    server.files["file"], server.cut = DATA, 2
    download(described(server.url), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA
    assert server.asked == [("/file", None), ("/file", "bytes=100000-"), ("/file", "bytes=150000-")]


def test_a_connection_that_keeps_breaking_leaves_a_part_for_the_next_call(server, tmp_path):
    server.files["file"], server.cut = DATA, 3
    with pytest.raises(MirrorError, match="broke repeatedly"):
        download(described(server.url), tmp_path / "file")
    assert not (tmp_path / "file").exists()
    have = (tmp_path / "file.part").stat().st_size
    assert 0 < have < len(DATA)
    download(described(server.url), tmp_path / "file")
    assert server.asked[-1] == ("/file", f"bytes={have}-")
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.files["file"], server.ranges = DATA, False
    (tmp_path / "file.part").write_bytes(DATA[:1000])
    download(described(server.url), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA


@pytest.mark.parametrize("part", [b"something else", DATA + b"too long", DATA])
def test_a_part_that_is_no_beginning_is_dropped(server, tmp_path, part):
    server.files["file"] = DATA
    (tmp_path / "file.part").write_bytes(part)
    download(described(server.url), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA


def test_wrong_bytes_are_not_kept(server, tmp_path):
    server.files["file"] = DATA[:-1] + bytes([DATA[-1] ^ 1])
    with pytest.raises(InputError, match=f"^file: the downloaded file has the MD5 .*, not {md5(DATA)}"):
        download(described(server.url), tmp_path / "file")
    assert not (tmp_path / "file").exists()
    assert not (tmp_path / "file.part").exists()


def test_a_later_address_makes_good(server, tmp_path):
    server.files |= {"bad": b"<html>no</html>", "good": DATA}
    urls = (f"{NOWHERE}x", f"{server.url}missing", f"{server.url}bad", f"{server.url}good")
    download(replace(described(server.url), urls=urls), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA


def test_too_large_a_file_is_refused(server, tmp_path):
    server.files["file"] = DATA
    with pytest.raises(MirrorError, match="offers 200000 bytes, more than the limit of 1000"):
        download(described(server.url, limit=1000), tmp_path / "file")


def test_a_server_that_falls_silent_is_given_up_and_continued_later(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    server.files["file"], server.pause = DATA, 1.0
    with pytest.raises(MirrorError, match="timed out"):
        download(described(server.url), tmp_path / "file")
    have = (tmp_path / "file.part").stat().st_size
    assert 0 < have < len(DATA)
    server.pause = 0.0
    download(described(server.url), tmp_path / "file")
    assert server.asked[-1] == ("/file", f"bytes={have}-")
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_server_that_drips_is_given_up(server, tmp_path, monkeypatch):
    """Each byte comes in time, and at 50 bytes per second the file would take an hour."""
    monkeypatch.setattr(downloads, "TIMEOUT", 0.3)
    server.files["file"], server.pause, server.drip = DATA, 0.02, True
    with pytest.raises(MirrorError, match="fewer than 1000 bytes per second"):
        download(described(server.url), tmp_path / "file")
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("there", "raised", "said"),
    [
        (DATA + DATA, MirrorError, "offers 400000 bytes, more than the limit of 300000"),
        (DATA[:1000], InputError, "the downloaded file has the MD5"),
        (b"<html>Please log in</html>", InputError, "the downloaded file has the MD5"),
    ],
)
def test_a_redirect_to_another_file_is_not_kept(server, tmp_path, there, raised, said):
    server.files["other"], server.moved["file"] = there, "other"
    with pytest.raises(raised, match=said):
        download(described(server.url, limit=300_000), tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_a_redirect_to_the_file_is_followed(server, tmp_path):
    server.files["other"], server.moved["file"] = DATA, "other"
    download(described(server.url), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA


def test_processes_that_want_one_file_at_once_fetch_it_once(server, tmp_path):
    """A second one waits, and finds it; the server is slow enough that all of them have come."""
    server.files["file"], server.pause = DATA, 2.0
    code = (
        "import sys; from pathlib import Path; from nelbo.data.download import download; "
        "from nelbo.data.sources import SourceFile; "
        "download(SourceFile(('file',), '', (sys.argv[1],), sys.argv[2], 'archive', 10**6), Path(sys.argv[3]))"
    )
    words = [sys.executable, "-c", code, f"{server.url}file", md5(DATA), str(tmp_path / "file")]
    processes = [subprocess.Popen(words) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "file").read_bytes() == DATA
    assert server.asked == [("/file", None)]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_place_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        download(described(server.url), tmp_path / "taken" / "file")


@pytest.mark.parametrize("md5_of", ["contents", "archive"])
def test_a_named_set_is_downloaded_once(server, tiny, tmp_path, monkeypatch, md5_of, capfd):
    source, published = tiny(server.url, md5_of)
    server.files = published
    monkeypatch.setitem(SOURCES, "tiny", source)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    data = load("tiny", root=tmp_path)
    train, _, test, _ = tiny_arrays()
    assert np.array_equal(data.images[:, 0].numpy(), np.concatenate([train, test]))
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == sorted(published)
    assert capfd.readouterr().out == ""
    server.files = {}
    assert load("tiny", root=tmp_path).sha256 == data.sha256


def test_the_cache_is_used_by_default(server, tiny, tmp_path, monkeypatch):
    source, server.files = tiny(server.url)
    monkeypatch.setitem(SOURCES, "tiny", source)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("NELBO_DATA", str(tmp_path / "elsewhere"))
    load("tiny")
    assert len(list((tmp_path / "cache" / "nelbo" / "data" / "tiny").iterdir())) == 4
    assert not list((tmp_path / "elsewhere").iterdir())


def test_without_a_network_the_files_and_the_folder_are_named(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    source, published = tiny(NOWHERE)
    monkeypatch.setitem(SOURCES, "tiny", source)
    wanted = f"put {', '.join(published)} into {tmp_path / 'tiny'}, or set NELBO_DATA"
    with pytest.raises(InputError, match=re.escape(wanted)) as caught:
        load("tiny", root=tmp_path)
    assert "\n" not in str(caught.value)


def test_every_published_file_has_addresses_a_sum_and_a_limit():
    for source in SOURCES.values():
        for file in source.files:
            assert file.urls
            assert all(url.endswith(f"/{file.published}") for url in file.urls)
            assert re.fullmatch("[0-9a-f]{32}", file.md5)
            assert 10_000 < file.limit < 200_000_000
