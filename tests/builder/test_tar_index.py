"""What tar can say is read exactly, in bytes and nanoseconds; what breaks its rules is refused by name."""

from __future__ import annotations

import base64
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import LayerInvalid, LayerUnsupported
from builder.layers.digest_runs import DigestRuns
from builder.layers.layer_room import CHUNKS_LIMIT
from builder.layers.tar_index import TarEntry, normal_path, read_entries
from builder.layers.tar_stream import TarStream
from builder.scratch import ScratchFile
from rafs.digests import chunk_digest
from rafs.tree import Node, device_number
from tests.builder.tar_bytes import BLOCK, END, base256, long_link, long_name, member, octal, pax

GNU = b"ustar  \x00"


CHUNK_SIZE = 4096


class Chunks(dict[bytes, bytes]):
    """The chunks a reader was given, by digest."""

    def take(self, chunk: bytes | memoryview) -> bytes:
        digest = chunk_digest(chunk)
        self[digest] = bytes(chunk)
        return digest


def read(raw: bytes, chunks: Chunks | None = None, piece: int = 1 << 20) -> list[TarEntry]:
    pieces = (raw[at : at + piece] for at in range(0, len(raw), piece))
    take = (Chunks() if chunks is None else chunks).take
    return list(read_entries(TarStream(pieces), "sha256:abc", chunk_size=CHUNK_SIZE, take=take))


def one(raw: bytes) -> TarEntry:
    (entry,) = read(raw + END)
    return entry


def node(raw: bytes) -> Node:
    found = one(raw).node
    assert found is not None
    return found


def content(raw: bytes, piece: int = 1 << 20) -> bytes:
    """The only entry's bytes, from its chunks."""
    chunks = Chunks()
    (entry,) = read(raw + END, chunks, piece)
    assert entry.node is not None
    sizes = [min(CHUNK_SIZE, entry.node.size - at) for at in range(0, entry.node.size, CHUNK_SIZE)]
    assert [len(chunks[digest]) for digest in entry.digests] == sizes
    return b"".join(chunks[digest] for digest in entry.digests)


def test_an_ordinary_file_has_all_its_fields() -> None:
    raw = member(b"usr/bin/x", b"hello", mode=0o4755, uid=7, gid=8, mtime=1_700_000_000)
    found = node(raw)
    assert one(raw).path == b"usr/bin/x"
    assert (found.mode, found.uid, found.gid) == (stat.S_IFREG | 0o4755, 7, 8)
    assert (found.mtime, found.mtime_ns, found.size) == (1_700_000_000, 0, 5)
    assert content(raw) == b"hello"


@pytest.mark.parametrize(
    ("kind", "file_type"),
    [
        (b"0", stat.S_IFREG),
        (b"\0", stat.S_IFREG),
        (b"7", stat.S_IFREG),
        (b"5", stat.S_IFDIR),
        (b"6", stat.S_IFIFO),
    ],
)
def test_types(kind: bytes, file_type: int) -> None:
    assert node(member(b"x", kind=kind)).mode == file_type | 0o644


def test_an_old_header_with_a_slash_is_a_directory() -> None:
    assert stat.S_ISDIR(node(member(b"x/", kind=b"\0", magic=b"")).mode)


def test_devices_keep_their_numbers() -> None:
    found = node(member(b"null", kind=b"3", device=(300, 70000)))
    assert (found.mode, found.rdev) == (stat.S_IFCHR | 0o644, device_number(300, 70000))
    assert stat.S_ISBLK(node(member(b"sda", kind=b"4", device=(8, 0))).mode)


@pytest.mark.parametrize("blank", [bytes(8), b" " * 8, b"\xff" * 8, b"garbage!"])
def test_device_fields_of_other_types_do_not_matter(blank: bytes) -> None:
    assert stat.S_ISFIFO(node(member(b"pipe", kind=b"6", patches={329: blank, 337: blank})).mode)


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"5", b"6"])
def test_only_files_have_bodies_whatever_their_size_field_says(kind: bytes) -> None:
    raw = member(b"x", kind=kind, size=5000, link=b"t", device=(1, 3)) + member(b"y", b"body") + END
    assert [entry.path for entry in read(raw)] == [b"x", b"y"]


def test_links() -> None:
    assert node(member(b"s", kind=b"2", link=b"../t")).target == b"../t"
    hard = one(member(b"h", kind=b"1", link=b"./a//b"))
    assert (hard.path, hard.link, hard.node) == (b"h", b"a/b", None)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"./a/b", b"a/b"),
        (b"/a/b/", b"a/b"),
        (b"a//./b", b"a/b"),
        (b"../../a", b"a"),
        (b"a/../b", b"b"),
        (b"./", b""),
        (b"/", b""),
        (b"\xff\xfe/\xc3", b"\xff\xfe/\xc3"),
    ],
)
def test_names_stay_bytes_and_inside_the_root(name: bytes, path: bytes) -> None:
    assert normal_path(name) == path
    assert one(member(name, kind=b"5")).path == path


def test_a_ustar_prefix_and_a_name_of_all_100_bytes() -> None:
    assert one(member(b"n" * 100, prefix=b"p" * 155)).path == b"p" * 155 + b"/" + b"n" * 100


def test_gnu_times_are_not_taken_for_a_prefix_but_what_old_go_wrote_is() -> None:
    assert one(member(b"x", magic=GNU, prefix=octal(1234567, 12))).path == b"x"
    assert one(member(b"x", magic=GNU, prefix=b"some/folder")).path == b"some/folder/x"


LONG = b"/".join([b"d" * 200] * 4)


def test_long_names() -> None:
    assert one(long_name(LONG) + member(b"short")).path == LONG
    assert one(pax((b"path", LONG)) + member(b"short")).path == LONG
    assert node(long_link(LONG) + member(b"s", kind=b"2", link=b"x")).target == LONG
    target = b"\xff" * 300
    assert node(pax((b"linkpath", target)) + member(b"s", kind=b"2", link=b"x")).target == target
    assert one(long_name(LONG) + long_link(b"t" * 200) + member(b"h", kind=b"1")).link == b"t" * 200


def test_pax_goes_before_the_header_and_an_empty_value_gives_way_to_it() -> None:
    records = ((b"uid", b"4294967295"), (b"gid", b"70000"), (b"mtime", b""), (b"comment", b"x"))
    found = node(pax(*records) + member(b"x", mtime=5))
    assert (found.uid, found.gid, found.mtime) == (4294967295, 70000, 5)


def test_base_256_numbers() -> None:
    found = node(member(b"x", uid=3_000_000, patches={116: base256(4_000_000_000, 8), 136: base256(-3, 12)}))
    assert (found.uid, found.gid, found.mtime) == (3_000_000, 4_000_000_000, -3)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        (b"12", (12, 0)),
        (b"12.5", (12, 500_000_000)),
        (b"12.1234567899", (12, 123_456_789)),
        (b"12.", (12, 0)),
        (b"-1.25", (-2, 750_000_000)),
        (b"-0.000000001", (-1, 999_999_999)),
        (b"-5", (-5, 0)),
        (b"5000000000.000000001", (5_000_000_000, 1)),
    ],
)
def test_times_are_exact(text: bytes, time: tuple[int, int]) -> None:
    found = node(pax((b"mtime", text)) + member(b"x"))
    assert (found.mtime, found.mtime_ns) == time


def test_pax_gives_sizes_that_headers_cannot() -> None:
    assert content(pax((b"size", b"5")) + member(b"x", b"hello", size=0)) == b"hello"


def test_xattrs_of_both_spellings() -> None:
    records = (
        (b"SCHILY.xattr.user.a", b"\x00\xff=\n"),
        (b"LIBARCHIVE.xattr.user.b%25", base64.b64encode(b"bsd").rstrip(b"=")),
        (b"LIBARCHIVE.xattr.user.a", base64.b64encode(b"loses")),
    )
    assert node(pax(*records) + member(b"x")).xattrs == {b"user.a": b"\x00\xff=\n", b"user.b%": b"bsd"}


def test_global_headers_and_labels_change_nothing() -> None:
    evil = pax((b"path", b"evil"), (b"uid", b"5"), kind=b"g")
    (entry,) = read(evil + member(b"label", kind=b"V") + member(b"x") + END)
    assert entry.path == b"x"
    assert entry.node is not None
    assert entry.node.uid == 0
    assert read(pax((b"comment", b"git"), kind=b"g") + END) == []


FILE = member(b"x", b"hello")


@pytest.mark.parametrize(
    "raw",
    [
        FILE + END,
        FILE + END + b"anything" * 100,
        FILE + bytes(BLOCK),
        FILE,
        member(b"x", b"hello", padded=False),
        member(b"x", b"hello", padded=False) + bytes(17),
        FILE + bytes(100),
    ],
    ids=["end", "more behind it", "one zero block", "no end", "no padding", "some padding", "part of an end"],
)
def test_streams_may_end_early_but_not_inside_an_entry(raw: bytes) -> None:
    (entry,) = read(raw)
    assert (entry.path, entry.digests) == (b"x", (chunk_digest(b"hello"),))


def test_no_bytes_and_only_zeros_are_empty_tars() -> None:
    assert read(b"") == read(END) == read(bytes(10240)) == []


def old_sparse(pieces: list[tuple[int, int]], size: int, stored: bytes) -> bytes:
    """GNU's old form: four pieces in the header, 21 in each block behind it."""
    def rows(some: list[tuple[int, int]]) -> bytes:
        return b"".join(octal(offset, 12) + octal(length, 12) for offset, length in some)

    more = pieces[4:]
    head = member(
        b"x", b"", kind=b"S", magic=GNU, size=len(stored),
        patches={386: rows(pieces[:4]), 482: bytes([bool(more)]), 483: octal(size, 12)},
    )  # fmt: skip
    while more:
        head += rows(more[:21]).ljust(504, b"\0") + bytes([bool(more[21:])]) + bytes(7)
        more = more[21:]
    return head + stored + bytes(-len(stored) % BLOCK)


def flat(pieces: list[tuple[int, int]]) -> list[bytes]:
    return [b"%d" % number for piece in pieces for number in piece]


def sparse_0_0(pieces: list[tuple[int, int]], size: int, stored: bytes) -> bytes:
    rows = []
    for offset, length in pieces:
        rows += [(b"GNU.sparse.offset", b"%d" % offset), (b"GNU.sparse.numbytes", b"%d" % length)]
    head = [(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.numblocks", b"%d" % len(pieces))]
    return pax(*head, *rows) + member(b"x", stored)


def sparse_0_1(
    pieces: list[tuple[int, int]], size: int, stored: bytes, named: bytes = b"GNU.sparse.size"
) -> bytes:
    return pax(
        (named, b"%d" % size),
        (b"GNU.sparse.numblocks", b"%d" % len(pieces)),
        (b"GNU.sparse.map", b",".join(flat(pieces))),
        (b"GNU.sparse.name", b"x"),
    ) + member(b"GNUSparseFile.0/x", stored)


def sparse_1_0(
    pieces: list[tuple[int, int]], size: int, stored: bytes, named: bytes = b"GNU.sparse.realsize"
) -> bytes:
    lines = b"\n".join([b"%d" % len(pieces), *flat(pieces)]) + b"\n"
    lines += bytes(-len(lines) % BLOCK)
    return pax(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"x"),
        (named, b"%d" % size),
    ) + member(b"GNUSparseFile.0/x", lines + stored)


SPARSE = [old_sparse, sparse_0_0, sparse_0_1, sparse_1_0]


Writer = Callable[[list[tuple[int, int]], int, bytes], bytes]


@pytest.mark.parametrize("write", SPARSE)
@pytest.mark.parametrize(
    ("pieces", "size"),
    [
        ([(0, 700), (1000, 24), (2000, 0)], 2000),
        ([(4096, 512)], 8000),
        ([], 5000),
        ([(10 * at, 3) for at in range(60)], 601),
    ],
)
def test_sparse_files_are_whole(write: Writer, pieces: list[tuple[int, int]], size: int) -> None:
    stored = bytes(1 + at % 250 for at in range(sum(length for _, length in pieces)))
    expected, at = bytearray(size), 0
    for offset, length in pieces:
        expected[offset : offset + length] = stored[at : at + length]
        at += length
    raw = write(pieces, size, stored)
    assert one(raw).path == b"x"
    assert content(raw) == content(raw, piece=100) == expected
    assert [entry.path for entry in read(raw + member(b"next") + END)] == [b"x", b"next"]


def test_a_sparse_files_size_is_taken_by_either_name() -> None:
    for named in (b"GNU.sparse.size", b"GNU.sparse.realsize"):
        for write in (sparse_0_1, sparse_1_0):
            assert content(write([(5, 3)], 70, b"abc", named)) == bytes(5) + b"abc" + bytes(62)
    with pytest.raises(LayerInvalid, match="without its size"):
        one(sparse_1_0([(5, 3)], 70, b"abc", b"GNU.sparse.other"))


@pytest.mark.parametrize("write", SPARSE)
@pytest.mark.parametrize(
    ("pieces", "size", "stored"),
    [
        ([(0, 10), (5, 10)], 100, 20),
        ([(50, 10), (10, 10)], 100, 20),
        ([(90, 20)], 100, 20),
        ([(0, 20)], 100, 10),
        ([(0, 10)], 100, 20),
    ],
    ids=["overlap", "descending", "beyond the end", "fewer bytes stored", "more bytes stored"],
)
def test_sparse_maps_that_lie_are_refused(
    write: Writer, pieces: list[tuple[int, int]], size: int, stored: int
) -> None:
    with pytest.raises(LayerInvalid, match="sparse"):
        one(write(pieces, size, b"s" * stored))


def test_a_sparse_file_beyond_use_is_refused_at_once() -> None:
    with pytest.raises(LayerUnsupported, match="sparse file of"):
        one(sparse_0_1([(0, 1)], 1 << 60, b"s"))


@pytest.mark.parametrize("write", SPARSE)
def test_a_sparse_file_of_negative_size_is_refused(write: Writer) -> None:
    with pytest.raises(LayerInvalid, match="sparse file of -5 bytes"):
        one(write([], -5, b""))


def test_a_hole_costs_nothing_however_long_it_is() -> None:
    size = CHUNK_SIZE * 10_000_001
    entry = one(sparse_1_0([(size - 2 * CHUNK_SIZE, 1)], size, b"s"))
    hole = chunk_digest(bytes(CHUNK_SIZE))
    assert isinstance(entry.digests, DigestRuns)
    assert entry.digests.runs == [
        (hole, 9_999_999), (chunk_digest(b"s" + bytes(CHUNK_SIZE - 1)), 1), (hole, 1)
    ]  # fmt: skip
    assert len(entry.digests) == 10_000_001


def test_a_layer_has_no_more_chunks_than_an_image_has_room_for() -> None:
    quarter = sparse_1_0([], CHUNK_SIZE * (CHUNKS_LIMIT // 4), b"")
    assert len(read(quarter * 4 + END)) == 4
    with pytest.raises(LayerUnsupported, match="files have more than 16777216 chunks of 4096 bytes"):
        read(quarter * 4 + member(b"x", b"1") + END)


def test_files_that_are_no_sparse_ones_are_counted_before_they_are_read() -> None:
    size = CHUNK_SIZE * CHUNKS_LIMIT + 1
    with pytest.raises(LayerUnsupported, match="more than 16777216 chunks"):
        one(member(b"x", size=size))


def test_xattrs_too_large_for_an_image_are_refused_where_they_are_read() -> None:
    for large, said in (
        ([(b"user.a", 65536)], "has 65536 bytes"),
        ([(b"user.%d" % number, 65000) for number in range(5)], "its xattrs take"),
        ([(b"user.%0250d" % number, 0) for number in range(300)], "Linux lists at most 65536"),
        ([(b"other.%0250d" % number, 0) for number in range(300)], "Linux lists at most 65536"),
    ):
        records = [(b"SCHILY.xattr." + name, bytes(size)) for name, size in large]
        with pytest.raises(LayerUnsupported, match=f"tar entry 'x' at byte .*{said}"):
            one(pax(*records) + member(b"x"))
    assert node(pax((b"SCHILY.xattr.user.a", bytes(65535))) + member(b"x")).xattrs


def test_values_that_no_image_has_are_not_kept() -> None:
    names = (b"com.apple.x", b"trusted.overlay.origin", b"trusted.overlay.redirect", b"system.nfs4_acl")
    records = [(b"SCHILY.xattr." + name, bytes(100_000)) for name in names]
    assert node(pax(*records) + member(b"x")).xattrs == {
        b"com.apple.x": b"", b"trusted.overlay.redirect": b"", b"system.nfs4_acl": b""
    }  # fmt: skip


def test_the_xattrs_of_a_layer_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.layers.layer_room.XATTRS_LIMIT", 1_000_000)
    entry = pax((b"SCHILY.xattr.user.a", bytes(65000))) + member(b"x")
    assert len(read(entry * 15 + END)) == 15
    with pytest.raises(LayerUnsupported, match="the layer's xattrs take more than 1000000 bytes"):
        read(entry * 16 + END)


BROKEN = {
    "checksum": (b"X" + member(b"x")[1:], "checksum"),
    "octal": (member(b"x", patches={108: b"9999999\0"}), "uid field"),
    "negative size": (member(b"x", patches={124: base256(-1, 12)}), "body of -1"),
    "body beyond the end": (member(b"x", b"body", size=5000), "the tar ends"),
    "half a header": (FILE + member(b"y")[:300], "inside a header"),
    "zeros between entries": (FILE + bytes(BLOCK) + FILE, "zeros"),
    "pax without an entry": (pax((b"path", b"x")) + END, "ends between"),
    "long name without an entry": (long_name(b"x"), "ends between"),
    "pax length": (member(b"p", b"99 path=x\n", kind=b"x") + FILE, "PAX record"),
    "pax without equals": (member(b"p", b"7 path\n", kind=b"x") + FILE, "PAX record"),
    "pax length of nothing": (member(b"p", b"0 path=x\n", kind=b"x") + FILE, "PAX record"),
    "pax number": (pax((b"uid", b"12x")) + FILE, "PAX uid"),
    "pax time": (pax((b"mtime", b"1.5e3")) + FILE, "PAX mtime"),
    "owner": (pax((b"uid", b"4294967296")) + FILE, "owner"),
    "negative owner": (member(b"x", patches={108: base256(-5, 8)}), "owner"),
    "time of 65 bits": (member(b"x", patches={136: base256(1 << 64, 12)}), "mtime"),
    "a NUL in a name": (pax((b"path", b"a\0b")) + FILE, "NUL"),
    "hard link to nothing": (member(b"h", kind=b"1"), "hard link"),
    "huge pax header": (member(b"p", kind=b"x", size=1 << 30) + FILE, "extended header"),
    "bsdtar xattr": (pax((b"LIBARCHIVE.xattr.user.a", b"!!!!")) + FILE, "base64"),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_broken_rules_are_refused_with_layer_and_place(rule: str) -> None:
    raw, said = BROKEN[rule]
    with pytest.raises(LayerInvalid, match=said) as caught:
        read(raw)
    assert "layer sha256:abc: tar entry" in str(caught.value)
    assert "at byte" in str(caught.value)


UNSHOWABLE = {
    "name of 256 bytes": (long_name(b"n" * 256) + member(b"x"), "256 bytes"),
    "mark of a name of 256 bytes": (long_name(b".wh." + b"n" * 256) + member(b"x"), "260 bytes"),
    "folder named like a mark": (long_name(b".wh." + b"n" * 255 + b"/x") + member(b"x"), "259 bytes"),
    "path beyond PATH_MAX": (pax((b"path", b"d/" * 2100)) + member(b"x"), "path"),
    "symlink of 4096 bytes": (long_link(b"t" * 4096) + member(b"s", kind=b"2"), "symbolic link"),
    "empty symlink": (member(b"s", kind=b"2"), "symbolic link"),
    "device number": (member(b"d", kind=b"3", device=(5000, 0)), "device 5000:0"),
    "multi-volume": (member(b"x", kind=b"M"), "type b'M'"),
    "sparse of the future": (pax((b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0")) + FILE, "sparse"),
}


@pytest.mark.parametrize("feature", UNSHOWABLE)
def test_what_no_image_can_show_is_refused_by_name(feature: str) -> None:
    raw, said = UNSHOWABLE[feature]
    with pytest.raises(LayerUnsupported, match=said):
        read(raw)


@pytest.mark.parametrize("piece", [1, 511, 512, 4096, 5000])
def test_the_pieces_in_which_a_tar_comes_make_no_difference(piece: int) -> None:
    body = bytes(range(256)) * 50
    raw = long_name(LONG) + member(b"x", body) + FILE + member(b"empty") + END
    whole, cut = Chunks(), Chunks()
    assert [entry.path for entry in read(raw, cut, piece)] == [LONG, b"x", b"empty"]
    read(raw, whole)
    assert whole == cut
    assert content(member(b"x", body), piece) == body


def test_every_prefix_of_a_tar_is_read_or_refused() -> None:
    raw = pax((b"path", b"p"), (b"uid", b"7")) + FILE + sparse_1_0([(5, 5)], 20, b"abcde") + FILE + END

    def said(entries: list[TarEntry]) -> list[object]:
        return [(entry.path, entry.node and entry.node.size, entry.digests) for entry in entries]

    whole, refused = said(read(raw)), 0
    for length in range(0, len(raw), 37):
        try:
            found = said(read(raw[:length]))
        except LayerInvalid:
            refused += 1
        else:
            assert found == whole[: len(found)]
    assert refused


def test_the_scratch_directory_stays_empty(tmp_path: Path) -> None:
    with ScratchFile(tmp_path) as spool:
        spool.append(b"bytes")
        assert list(tmp_path.iterdir()) == []
        with spool.open() as first, spool.open() as second:
            assert (first.read(2), second.read(), first.read()) == (b"by", b"bytes", b"tes")
