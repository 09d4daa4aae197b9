"""Files of a codec: every flipped byte and every truncation is noticed, and whole chunks still come back."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from container_helpers import LEVELS, SHAPE, Levels, header, png, small_file, some_images
from hypothesis import given
from hypothesis import strategies as st

from nelbo.codec import archive, container, fallback
from nelbo.codec.apart import decode_apart
from nelbo.codec.archive import Archive, ArchiveWriter, Stored, Table
from nelbo.codec.chunks import (
    CHAIN,
    EACH,
    HEAD,
    PLAIN,
    DamagedChunkError,
    chain_chunk,
    decode_chunk,
    each_chunk,
    head_of,
    plain_chunk,
)
from nelbo.codec.container import CHUNK, INDEX, MAGIC, Container, DamagedBlockError, Writer
from nelbo.codec.kinds import Kind
from nelbo.errors import InputError
from nelbo.jobs.archive_facts import facts_of, is_archive

IMAGES = some_images(23)
FILE = small_file(IMAGES)
CODER = Levels()


def recovered(path: Path) -> tuple[set[int], list[str], bool]:
    """The images that come back, which are those that were written; the problems; and whether the image apart does."""
    with Archive(path) as archive:
        have: set[int] = set()
        for head, block in archive.chunks():
            try:
                back = decode_chunk(archive.container.read(block), SHAPE, CODER)
            except DamagedChunkError:
                continue
            assert np.array_equal(back, IMAGES[head.rows.start : head.rows.stop])
            have |= set(head.rows)
        apart = {head.item: decode_apart(archive.container.read(block))[1] for head, block in archive.apart()}
        assert all(data == png() for data in apart.values())
        return have, archive.problems, 23 in apart


def test_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(FILE)
    assert recovered(path) == (set(range(23)), [], True)
    assert is_archive(path)
    facts = facts_of(path)
    assert (facts.images, facts.apart, facts.chunks, facts.bytes) == (24, 1, 3, len(FILE))
    assert sum(facts.parts.values()) == len(FILE)
    assert facts.notes == ["a note"]


def test_every_flipped_byte_loses_at_most_one_chunk(tmp_path: Path) -> None:
    """It is noticed unless it changes nothing that is read, and what comes back is what was written."""
    path, whole = tmp_path / "x", set(range(23))
    for at in range(len(FILE)):
        path.write_bytes(FILE[:at] + bytes([FILE[at] ^ (1 << at % 8)]) + FILE[at + 1 :])
        have, problems, apart = recovered(path)
        lost = whole - have
        assert lost in (set(), set(range(12)), set(range(12, 18)), set(range(18, 23))), at
        assert bool(lost) + (not apart) + bool(problems) <= 1, at
        if at % 16 == 0:
            assert facts_of(path).images == 24


def test_every_truncation_keeps_what_is_before_it(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(FILE)
    with Container(path) as container:
        ends = [block.end for block in container.of(CHUNK)]
        first = container.blocks[0].end
    counts = (12, 18, 23)
    for length in range(len(FILE)):
        path.write_bytes(FILE[:length])
        if length < first:
            with pytest.raises(InputError, match=r"header|not a file of"):
                recovered(path)
            continue
        have, problems, _ = recovered(path)
        assert have == set(range(max([n for n, end in zip(counts, ends, strict=True) if end <= length], default=0)))
        assert problems


def test_bytes_between_and_after_do_not_matter(tmp_path: Path) -> None:
    """A file that a transfer has lengthened, or that lost some bytes in its middle."""
    path = tmp_path / "x"
    path.write_bytes(FILE + b"\0" * 100)
    assert recovered(path)[0] == set(range(23))
    path.write_bytes(FILE)
    with Container(path) as container:
        middle = container.of(CHUNK)[1].place + 40
    path.write_bytes(FILE[:middle] + FILE[middle + 7 :])
    assert recovered(path)[0] == {*range(12), *range(18, 23)}


@pytest.mark.parametrize("data", [b"", b"\x93nelbo", MAGIC, b"x" * 100, MAGIC + b"\1\0\0\0"])
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"not a file of 'nelbo compress'|header"):
        Archive(path)


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(FILE.replace(MAGIC + b"\1", MAGIC + b"\2").replace(b"\1\0\0\0" + MAGIC, b"\2\0\0\0" + MAGIC))
    with pytest.raises(InputError, match=r"version 2 of the format.*update nelbo"):
        Archive(path)


def test_claims_are_held_against_memory(tmp_path: Path) -> None:
    """A forged header or a forged chunk with right digests."""
    path, stream = tmp_path / "x", io.BytesIO()
    ArchiveWriter(stream, header(2**60), CODER.golden()).finish(Table())
    path.write_bytes(stream.getvalue())
    with pytest.raises(InputError, match="do not fit into memory"):
        Archive(path)
    stream = io.BytesIO()
    writer = ArchiveWriter(stream, header(23), CODER.golden())
    writer.chunk(HEAD.pack(PLAIN, 0, 2**31, 2**31, 0, bytes(16)) + b"X")
    writer.finish(Table())
    path.write_bytes(stream.getvalue())
    with Archive(path) as archive:
        assert archive.chunks() == []


def test_the_parts_of_a_later_nelbo_are_read() -> None:
    """Fields that this one does not know are ignored."""

    class Later(Stored):
        names: list[str]
        colour: str

    found = Table.from_bytes(Later(names=["a"], colour="red").to_bytes())
    assert found.names == ["a"]


def test_names_are_not_longer_than_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes of xz that claim more are damaged, and more are not written."""
    data = Table(names=["x" * 2000]).to_bytes()
    monkeypatch.setattr(archive, "MOST_JSON", 1000)
    with pytest.raises(ValueError, match="claims more than 1,000 bytes"):
        Table.from_bytes(data)
    with pytest.raises(InputError, match="make several files"):
        Table(names=["x" * 2000]).to_bytes()
    assert archive.MOST_JSON < 10**8


@pytest.mark.parametrize("bad", [{"runs": [(0, 3)]}, {"runs": [(-2, 3)]}, {"labels": [1], "classes": ["a"]}])
def test_a_table_that_does_not_fit_is_damaged(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        Table.model_validate(bad)


@given(st.integers(1, 40), st.integers(0, 3))
def test_a_chain_gives_back_its_images(n: int, seed: int) -> None:
    images = some_images(n, seed)
    payload = chain_chunk(CODER, images, 7)
    assert np.array_equal(decode_chunk(payload, SHAPE, CODER), images)
    head = head_of(payload)
    assert head.rows == range(7, 7 + n)
    assert head.kind == (CHAIN if head.plain < n else PLAIN)


def test_the_first_images_fill_the_initial_words() -> None:
    """They are as few as give these words, and nothing but them is under the images on the stack."""
    images = some_images(30)
    payload = chain_chunk(CODER, images, 0)
    head = head_of(payload)
    assert 0 < head.plain < 4
    assert len(payload) <= HEAD.size + 16 * (30 - head.plain) + head.size + 4


def test_too_few_initial_words_are_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Levels, "initial_words", lambda self: 1)
    images = some_images(60)
    assert head_of(chain_chunk(CODER, images, 0)).kind == CHAIN
    assert np.array_equal(decode_chunk(chain_chunk(CODER, images, 0), SHAPE, CODER), images)


@pytest.mark.parametrize("n", [1, 6, 130])
def test_single_images_give_back_their_images(n: int) -> None:
    payload = each_chunk(CODER, some_images(n), 3)
    assert head_of(payload).kind == EACH
    assert np.array_equal(decode_chunk(payload, SHAPE, CODER), some_images(n))


def test_wrong_pixels_and_panics_are_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A digest that is not checked would let them through; a panic of the entropy coder is no Exception."""
    payload = chain_chunk(CODER, some_images(30), 0)
    right = Levels.decode

    def off_by_one(self: Levels, words: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        images, rest = right(self, words, count)
        return images ^ 1, rest

    monkeypatch.setattr(Levels, "decode", off_by_one)
    with pytest.raises(DamagedChunkError, match="other pixels"):
        decode_chunk(payload, SHAPE, CODER)

    class PanicError(BaseException):
        pass

    def panic(self: Levels, words: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        raise PanicError("std must be positive")

    monkeypatch.setattr(Levels, "decode", panic)
    with pytest.raises(DamagedChunkError, match="std must be positive"):
        decode_chunk(payload, SHAPE, CODER)


def comes_back(payload: bytes, images: np.ndarray) -> bool:
    """Whether a chunk gives these images; False if it is damaged."""
    try:
        return np.array_equal(decode_chunk(payload, SHAPE, CODER), images)
    except DamagedChunkError:
        return False


def test_other_pixels_do_not_come_back() -> None:
    """The words of other images, under the head of these."""
    images = some_images(30)
    other = images.copy()
    other[-1, 0, 0, 0] ^= 1
    one, two = (chain_chunk(CODER, each, 0) for each in (images, other))
    assert comes_back(one, images)
    assert not comes_back(one[: HEAD.size] + two[HEAD.size :], other)


def test_a_long_chain_comes_back() -> None:
    """Longer than a group, the last of which is not full."""
    images = some_images(150)
    assert comes_back(chain_chunk(CODER, images, 0), images)


def test_a_flipped_bit_of_a_block_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(FILE)
    with Container(path) as container:
        block = container.of(CHUNK)[0]
    path.write_bytes(FILE[: block.end - 1] + bytes([FILE[block.end - 1] ^ 1]) + FILE[block.end :])
    with Container(path) as container:
        try:
            container.read(block)
            seen = False
        except DamagedBlockError:
            seen = True
    assert seen


def test_an_interruption_is_not_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Levels, words: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        raise KeyboardInterrupt

    payload = chain_chunk(CODER, some_images(30), 0)
    monkeypatch.setattr(Levels, "decode", stop)
    with pytest.raises(KeyboardInterrupt):
        decode_chunk(payload, SHAPE, CODER)


def test_a_plain_chunk_is_smaller_than_its_levels() -> None:
    images = some_images(100) // 17
    assert len(plain_chunk(images, 0)) < 200
    assert LEVELS == 17


def test_a_plain_chunk_is_decoded_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a method that gives back other pixels, nothing is stored."""
    images = some_images(100) // 17
    right = fallback.unpack, fallback.from_webp
    with monkeypatch.context() as planted:
        planted.setattr(fallback, "unpack", lambda data, length: bytes([1]) + right[0](data, length)[1:])
        planted.setattr(fallback, "from_webp", lambda data, size: right[1](data, size) ^ 1)
        payload = plain_chunk(images, 0)
    assert payload[HEAD.size : HEAD.size + 1] == fallback.RAW
    assert np.array_equal(decode_chunk(payload, SHAPE, None), images)


def test_the_index_is_the_last_block(tmp_path: Path) -> None:
    """And an entry that leads outside of the file makes it worthless."""
    stream = io.BytesIO()
    writer = Writer(stream)
    writer.add(CHUNK, b"abc")
    writer.blocks[0] = writer.blocks[0]._replace(length=10**9)
    writer.finish()
    path = tmp_path / "x"
    path.write_bytes(stream.getvalue())
    with Container(path) as container:
        assert container.problems == ["its index is damaged"]
        assert [container.read(block) for block in container.blocks] == [b"abc"]
        assert INDEX not in [block.tag for block in container.blocks]


@pytest.mark.parametrize("shift", [0, 1])
def test_blocks_of_an_index_do_not_overlap(shift: int, tmp_path: Path) -> None:
    """A short file could otherwise have the digest of many large blocks."""
    stream = io.BytesIO()
    writer = Writer(stream)
    for _ in range(3):
        writer.add(CHUNK, b"abc" * 100)
    whole = list(writer.blocks)
    writer.blocks[1] = writer.blocks[0]._replace(place=writer.blocks[0].place + shift)
    writer.finish()
    (tmp_path / "x").write_bytes(stream.getvalue())
    with Container(tmp_path / "x") as container:
        assert container.problems == ["its index is damaged"]
        assert container.blocks == whole


def test_a_search_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file whose every byte seems to begin a block that reaches its end."""
    monkeypatch.setattr(container, "AT_ONCE", 1000)
    size = 40_000
    heads = [container.HEAD.pack(CHUNK, size - 28 * k - 100, bytes(16)) for k in range((size - 200) // 28)]
    (tmp_path / "x").write_bytes((MAGIC + b"\1\0\0\0" + b"".join(heads)).ljust(size, b"\0"))
    read = list[int]()
    right = Container._bytes

    def counted(self: Container, place: int, length: int) -> bytes:
        read.append(length)
        return right(self, place, length)

    monkeypatch.setattr(Container, "_bytes", counted)
    with Container(tmp_path / "x") as found:
        assert found.blocks == []
    assert sum(read) < 10 * size


def forged(path: Path, table: Table, chunk: bytes, count: int = 23) -> Path:
    """A file with right digests, and what no nelbo writes."""
    with path.open("wb") as file:
        writer = ArchiveWriter(file, header(count), CODER.golden())
        writer.chunk(chunk)
        writer.finish(table)
    return path


@pytest.mark.parametrize(
    "facts",
    [{"bounds": {"n": 1, "own": 0.0, "own_stderr": 0.1}}, {"xz_bytes": "x"}, {"encode_seconds": -1}, {"notes": 3}],
)
def test_forged_facts_are_left_out(facts: dict[str, object], tmp_path: Path) -> None:
    found = facts_of(forged(tmp_path / "x", Table(facts=facts), plain_chunk(IMAGES, 0)))
    assert (found.bounds, found.xz_bytes, found.encode_seconds, found.notes) == (None, None, None, [])
    assert found.lines()["images"].startswith("23 of")


def test_forged_counts_are_damage(tmp_path: Path) -> None:
    """More levels than images, and more images in a chunk than are ever written."""
    table = Table(kinds=[Kind(mode="L")], runs=[(0, 46)])
    with Archive(forged(tmp_path / "x", table, plain_chunk(IMAGES, 0))) as archive:
        assert archive.problems == ["its table of names and labels is damaged"]
    large = HEAD.pack(CHAIN, 0, 2**17, 0, 0, bytes(16))
    with Archive(forged(tmp_path / "y", Table(), large, 2**17)) as archive:
        assert archive.chunks() == []
    with pytest.raises(InputError, match="claims 33,554,432 images"):
        Archive(forged(tmp_path / "z", Table(), large, 2**25))


def test_signs_that_are_commands_to_a_terminal_are_shown(tmp_path: Path) -> None:
    table = Table(names=["\x1b[2J.png"] * 23, facts={"notes": ["a\x1b]0;b\x07", "\udcff é"]})
    lines = facts_of(forged(tmp_path / "x", table, plain_chunk(IMAGES, 0))).lines()
    assert lines["notes"] == ["a\\x1b]0;b\\x07", "\udcff é"]
    assert "\x1b" not in str(lines["names"])
