"""What a visitor cannot do: read or write outside of the folders, come from elsewhere, send too much."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from studio_helpers import Served, config_of, served, status

import nelbo
from nelbo.errors import InputError
from nelbo.studio.safety import UPLOAD, Door, Folders
from nelbo.studio.trainings import Trainings, log_of


@pytest.fixture
def inside(tmp_path: Path) -> Folders:
    """A folder with a run's name in it, beside a secret one."""
    (tmp_path / "given/run").mkdir(parents=True)
    (tmp_path / "given-too").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/image.png").write_bytes(b"secret")
    return Folders([tmp_path / "given"])


@pytest.mark.parametrize(
    "path",
    ["../secret", "run/../../secret", "/etc/passwd", "..", "../given-too", "~root", "a\0b", "run/\n/../../../secret"],
)
def test_no_path_leads_out_of_the_folders(inside: Folders, path: str) -> None:
    with pytest.raises(InputError):
        inside.inside(inside.roots[0] / path if not path.startswith("~") else path)


@pytest.mark.parametrize("name", ["run", "run/..", "run/deeper", "été", "a b", "-", "…", "run/%2e%2e"])
def test_what_is_in_the_folders_may_have_any_name(inside: Folders, name: str) -> None:
    assert inside.inside(inside.roots[0] / name).is_relative_to(inside.roots[0])


def test_links_that_lead_out_are_refused(inside: Folders) -> None:
    root = inside.roots[0]
    (root / "data").mkdir()
    (root / "data/good.png").write_bytes(b"")
    (root / "data/also.png").symlink_to(root / "data/good.png")
    assert inside.contained(root / "data") == root / "data"
    (root / "elsewhere").symlink_to(root.parent / "secret")
    with pytest.raises(InputError, match="outside"):
        inside.inside(root / "elsewhere")
    (root / "data/deep").mkdir()
    (root / "data/deep/image.png").symlink_to(root.parent / "secret/image.png")
    with pytest.raises(InputError, match="link"):
        inside.contained(root / "data")
    (root / "twice").mkdir()
    (root / "twice/data").symlink_to(root / "data")  # a link that stays inside, to a folder with one that does not
    with pytest.raises(InputError, match="link"):
        inside.contained(root / "twice")


@pytest.mark.parametrize(
    "name", ["../x", "/tmp/x", "a/b", ".hidden", "", "-x", "a\0", "a\nb", "x" * 101, "a;b", "..", "_"]
)
def test_a_new_run_has_a_plain_name(inside: Folders, name: str) -> None:
    with pytest.raises(InputError, match="name"):
        inside.new(name)


def test_a_log_through_a_link_is_not_written(inside: Folders) -> None:
    out = inside.new("innocent")
    target = inside.roots[0].parent / "secret/log"
    log_of(out).symlink_to(target)
    with pytest.raises(InputError, match="outside"):
        Trainings(inside).start("vae", out, [])
    assert not target.exists()


def test_a_run_cannot_name_data_elsewhere(folders: Path, tmp_path: Path) -> None:
    """Its config.toml may be a stranger's."""
    from nelbo.studio.held import Models

    data = tmp_path / "elsewhere.npy"
    run = tmp_path / "runs/stranger"
    import numpy as np

    np.save(data, np.arange(40 * 64, dtype=np.uint8).reshape(40, 8, 8) % 5)
    nelbo.train("vae", str(data), out=run, steps=1, widths=(8, 8), layout="nhw", device="cpu", precision="fp32")
    opened = Models(Folders([tmp_path / "runs"])).run(str(run))
    with pytest.raises(InputError, match="outside"):
        opened.dataset  # noqa: B018
    assert Models(Folders([tmp_path])).run(str(run)).dataset.shape == (1, 8, 8)


def test_only_this_machine_needs_no_token() -> None:
    door = Door("127.0.0.1", 7860, None)
    assert door.refusal("GET", {"host": "127.0.0.1:7860"}, "") is None
    assert door.refusal("GET", {"host": "localhost:7860"}, "") is None
    assert door.refusal("GET", {"host": "evil.example:7860"}, "") is not None
    assert door.refusal("GET", {}, "") is not None
    assert door.refusal("POST", {"host": "127.0.0.1:7860", "origin": "http://evil.example"}, "") is not None
    assert door.refusal("POST", {"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860"}, "") is None
    open_door = Door("0.0.0.0", 7860, "right")
    assert open_door.refusal("GET", {"host": "box:7860"}, "") is not None
    assert open_door.refusal("GET", {"host": "box:7860"}, "token=wrong") is not None
    assert open_door.refusal("GET", {"host": "box:7860"}, "token=right") is None
    assert open_door.refusal("GET", {"host": "box:7860", "cookie": "a=b; nelbo_studio=right"}, "") is None
    assert open_door.refusal("GET", {"host": "box:7860", "cookie": "nelbo_studio="}, "") is not None


def plain_get(studio: Served, path: str, **headers: str) -> tuple[int, bytes]:
    """Code and body of an address that no client has tidied."""
    line = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=20)
    line.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        line.putheader(name, value)
    line.endheaders()
    answer = line.getresponse()
    found = answer.status, answer.read()
    line.close()
    return found


@pytest.mark.parametrize("form", ["/gradio_api/file={}", "/file={}", "/gradio_api/file/{}", "/static/{}", "/assets/{}"])
@pytest.mark.parametrize("place", ["absolute", "dots", "encoded", "run", "link"])
def test_no_address_gives_a_file(studio: Served, folders: Path, form: str, place: str) -> None:
    """Neither a file of the system, nor one of the folders, which only the screens show."""
    link = folders / "runs/link.txt"
    if not link.is_symlink():
        link.symlink_to("/etc/passwd")
    path = {
        "absolute": "/etc/passwd",
        "dots": "../" * 12 + "etc/passwd",
        "encoded": quote("../" * 12 + "etc/passwd", safe=""),
        "run": str(folders / "runs/digits-vae/config.toml"),
        "link": str(link),
    }[place]
    code, body = plain_get(studio, form.format(path))
    assert code in (403, 404, 400, 405)
    assert b"root:" not in body
    assert b"[model]" not in body


@pytest.mark.parametrize(
    "path", ["/gradio_api/proxy=http://127.0.0.1/", "/monitoring", "/docs", "/gradio_api/openapi.json", "/login", "/x"]
)
def test_what_the_page_does_not_use_is_closed(studio: Served, path: str) -> None:
    assert plain_get(studio, path)[0] == 404


def test_requests_from_elsewhere_are_refused(studio: Served) -> None:
    assert plain_get(studio, "/", Host="evil.example")[0] == 403
    assert status(f"{studio.address}gradio_api/queue/join", {"Origin": "http://evil.example"}, b"{}")[0] == 403
    assert plain_get(studio, "/")[0] == 200


def test_the_browser_is_told_to_ask_no_other_host(studio: Served) -> None:
    headers = status(studio.address)[2]
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy.replace("https", "http")
    assert headers["x-content-type-options"] == "nosniff"


def answers_of(studio: Served, uploaded: str) -> list[int]:
    """The codes that the studio answers to a visitor who names a file as uploaded without uploading it: of every event
    that is given a file."""
    found, codes = config_of(studio.address), []
    given = {"path": uploaded, "meta": {"_type": "gradio.FileData"}, "orig_name": "x.png"}
    many = {
        each["id"]: each["props"]["file_count"] == "multiple" for each in found["components"] if each["type"] == "file"
    }
    for event in found["dependencies"]:
        if many.keys() & set(event["inputs"]):
            values = [([given] if many[each] else given) if each in many else None for each in event["inputs"]]
            body = json.dumps({"data": values, "fn_index": event["id"], "session_hash": "stranger"}).encode()
            address = f"{studio.address}gradio_api/queue/join"
            codes.append(status(address, {"Content-Type": "application/json"}, body)[0])
    return codes


@pytest.mark.parametrize("place", ["of the system", "with dots", "in the folders", "elsewhere", "of another host"])
def test_a_file_that_was_not_sent_is_not_read(studio: Served, folders: Path, tmp_path: Path, place: str) -> None:
    """Gradio reads or fetches what it takes for a sent file, so that the request is refused before."""
    (tmp_path / "secret.png").write_bytes((folders / "photos/1/01.png").read_bytes())
    path = {
        "of the system": "/etc/passwd",
        "with dots": "../" * 12 + "etc/passwd",
        "in the folders": str(folders / "photos/1/01.png"),
        "elsewhere": str(tmp_path / "secret.png"),
        "of another host": "http://127.0.0.1:1/x.png",
    }[place]
    codes = answers_of(studio, path)
    assert len(codes) >= 3  # of the screens Edit and Compress
    assert set(codes) == {400}


def test_a_file_that_is_too_large_is_refused(studio: Served) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = head + bytes(UPLOAD + 1) + b"\r\n--b--\r\n"
    code, text, _ = status(
        f"{studio.address}gradio_api/upload", {"Content-Type": "multipart/form-data; boundary=b"}, body
    )
    assert code == 413 or (code >= 400 and "size" in text)


def test_another_host_needs_the_token_that_is_printed(folders: Path) -> None:
    pytest.importorskip("gradio", reason="the studio needs nelbo[studio]")
    with served(folders / "runs", host="0.0.0.0") as found:
        token = found.address.partition("token=")[2]
        assert len(token) >= 32
        base = f"http://127.0.0.1:{found.port}/"
        assert status(base)[0] == 403
        assert status(f"{base}config")[0] == 403
        assert status(f"{base}?token=wrong")[0] == 403
        code, _, headers = status(f"{base}?token={token}")
        assert (code, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert status(base, {"Cookie": cookie.partition(";")[0]})[0] == 200


def test_without_gradio_one_line_says_how_to_install_it(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from nelbo.studio.server import require_gradio

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else real(name))
    with pytest.raises(InputError, match=r"pip install 'nelbo\[studio\]'"):
        require_gradio()


def test_a_port_in_use_is_said(folders: Path) -> None:
    import socket

    from nelbo.studio.server import bound

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="in use"):
            bound("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(InputError, match="not a known address"):
        bound("no.such.host.invalid", None)
