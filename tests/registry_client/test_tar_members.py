"""Members of plain tars are found where every writer puts them; what is broken is refused at once."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from registry_client import open_source
from registry_client.errors import LayoutInvalid
from registry_client.layouts import tar_members
from registry_client.layouts.tar_members import MemberKind, TarInvalid, TarMember
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.builder.tar_bytes import END, base256, long_link, long_name, member, pax
from tests.builder.test_tar_index import old_sparse, sparse_0_0, sparse_1_0


def members_of(raw: bytes) -> list[TarMember]:
    return list(tar_members.tar_members(len(raw), lambda offset, size: raw[offset : offset + size]))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_the_standard_library_wrote_them(form: int) -> None:
    long = "d" * 60 + "/" + "n" * (90 if form == tarfile.USTAR_FORMAT else 150)
    contents = {"a": b"1" * 600, long: b"", "ü": b"2" * 512}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for kind, name in [(tarfile.SYMTYPE, "s"), (tarfile.LNKTYPE, "h")]:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "a" * 99
            archive.addfile(link)
        device = tarfile.TarInfo("c")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    raw = stream.getvalue()
    *files, symlink, hard_link, other = members_of(raw)
    assert {one.name: raw[one.offset :][: one.size] for one in files} == contents
    assert {one.kind for one in files} == {MemberKind.FILE}
    assert (symlink.name, symlink.kind, symlink.link) == ("s", MemberKind.SYMLINK, "a" * 99)
    assert (hard_link.name, hard_link.kind, hard_link.link) == ("h", MemberKind.HARD_LINK, "a" * 99)
    assert other.kind is MemberKind.OTHER


def test_extended_headers_say_name_size_and_link_of_the_next_member_alone() -> None:
    raw = pax((b"path", b"wide"), (b"size", b"600"), kind=b"x") + member(b"x", b"1" * 600, size=0)
    raw += pax((b"path", b"of none"), kind=b"g") + member(b"plain", b"2")
    raw += long_name(b"l" * 300) + long_link(b"t" * 300) + member(b"x", kind=b"2", size=99)
    raw += member(b"last", b"3", padded=False)
    found = members_of(raw)
    assert [(one.name, one.link, one.size) for one in found] == [
        ("wide", "", 600), ("plain", "", 1), ("l" * 300, "t" * 300, 0), ("last", "", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("write", [old_sparse, sparse_0_0, sparse_1_0])
def test_sparse_files_are_told_apart_and_their_maps_passed_over(write: object) -> None:
    spans = [(4096 * number, 1) for number in range(30)]
    raw = write(spans, 1 << 40, b"a" * 30) + member(b"next", b"n") + END  # type: ignore[operator]
    sparse, following = members_of(raw)
    assert sparse.kind is MemberKind.SPARSE and sparse.size < len(raw)
    assert following.name == "next" and raw[following.offset] == ord("n")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "empty"),
        (b"no tar" * 200, "begins no header"),
        (member(b"a") + b"x" * 512, "byte 512 begins no header"),
        (member(b"a", size=-512) + END, "-512 bytes"),
        (member(b"a", size=-1 << 62) + END, "bytes"),
        (member(b"a", b"b", size=1 << 40), "1099511627776 bytes, 512 are there"),
        (member(b"a", b"b", patches={124: b"-0000001000\0"}), "bytes"),
        (pax((b"size", b"-512")) + member(b"a") + END, "a PAX size is b'-512'"),
        (pax((b"size", b"9" * 30)) + member(b"a") + END, "a PAX size"),
        (member(b"x", b"9 a=b", kind=b"x") + member(b"a") + END, "of lines"),
        (member(b"x", b"1 a=b\n", kind=b"x") + member(b"a") + END, "of lines"),
        (member(b"x", kind=b"x", size=-512) + END, "ends within an extended header"),
        (member(b"x", kind=b"L", size=2 << 20) + END, "has 2097152 bytes"),
        (member(b"x", kind=b"L", size=2000), "ends within an extended header"),
        (member(b"a", kind=b"S", magic=b"ustar  \0", patches={482: b"\1"}), "map of a sparse file"),
        (member(b"a") + b"x" * 99, "ends within a header"),
    ],
)
def test_what_is_broken_is_refused_and_not_gone_round(raw: bytes, words: str) -> None:
    with pytest.raises(TarInvalid, match=words):
        members_of(raw)


def test_a_tar_of_endless_headers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "HEADERS_LIMIT", 100)
    assert len(members_of(member(b"a") * 99 + END)) == 99
    for header in (member(b"a"), member(b"a", kind=b"x")):
        with pytest.raises(TarInvalid, match="more than 100 headers"):
            members_of(header * 101)


def test_a_size_in_base_256_is_a_size() -> None:
    (found,) = members_of(member(b"a", b"b" * 5, patches={124: base256(5, 12)}) + END)
    assert found.size == 5


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_an_archive_with_a_negative_size_is_refused_at_once(tmp_path: Path, transport: str) -> None:
    (tmp_path / "x.tar").write_bytes(member(b"oci-layout", b"{}") + member(b"y", size=-512) + END)
    source = open_source(parse_reference(f"{transport}:{tmp_path}/x.tar"), RegistryOptions())
    with pytest.raises(LayoutInvalid, match="not a readable tar archive"):
        source.resolve()
