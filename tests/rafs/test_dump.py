"""The text form says what its page promises, and nothing that depends on how an image was written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rafs.bootstrap import Bootstrap
from rafs.dump import FIELDS, dump_lines, escape
from rafs.errors import FormatInvalid
from tests.support.bootstrap_edits import Editor
from tests.support.images import image_of
from tests.support.nydus_vectors import one_vector
from tests.support.trees import Entry, char_device, directory, fifo, file, hardlink, symlink, tree

_PAGE = Path(__file__).parents[2] / "docs" / "dump.md"


def _lines(root: Entry, chunk_size: int = 64 << 10) -> list[str]:
    return list(dump_lines(Bootstrap(image_of(root, chunk_size=chunk_size).bootstrap)))


def test_each_kind_has_its_line() -> None:
    root = tree(
        file(b"file", b"content", uid=7, gid=8, mtime=-5, mtime_ns=500_000_000, mode=0o4755),
        hardlink(b"hard", b"/file"),
        symlink(b"link", b"a target%"),
        char_device(b"null", 1, 3),
        fifo(b"pipe"),
        directory(b"dir", xattrs={b"user.b": b"\xff,", b"user.a": b""}),
        file(b"-"),
    )
    lines = _lines(root)
    content = lines[3].split(" ")[-1]
    assert re.fullmatch("[0-9a-f]{64}", content)
    assert lines == [
        "/ d 0755 0 0 - 0.000000000 3 - - - -",
        "/- f 0644 0 0 0 0.000000000 1 - - - -",
        "/dir d 0755 0 0 - 0.000000000 2 - - user.a=,user.b=%FF%2C -",
        f"/file f 4755 7 8 7 -5.500000000 2 - - - {content}",
        f"/hard h 4755 7 8 7 -5.500000000 2 - /file - {content}",
        "/link l 0777 0 0 9 0.000000000 1 - a%20target%25 - -",
        "/null c 0600 0 0 0 0.000000000 1 1:3 - - -",
        "/pipe p 0644 0 0 0 0.000000000 1 - - - -",
    ]


def test_the_content_field_follows_bytes_and_chunks_only() -> None:
    def content(name: bytes, *files: Entry, chunk_size: int = 64 << 10) -> str:
        line = next(
            line for line in _lines(tree(*files), chunk_size) if line.startswith(f"/{name.decode()} ")
        )
        return line.split(" ")[-1]

    text = b"some text" * 20_000
    alone = content(b"a", file(b"a", text))
    assert content(b"b", file(b"a", b"other"), file(b"b", text, blob=1)) == alone
    assert content(b"a", file(b"a", text + b"!")) != alone
    assert content(b"a", file(b"a", text), chunk_size=4096) != alone


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", ""),
        (b"-", "%2D"),
        (b"--", "--"),
        (b"a b", "a%20b"),
        (b"\n\xff%=,", "%0A%FF%25%3D%2C"),
        (b"~!", "~!"),
    ],
)
def test_a_field_is_never_ambiguous(raw: bytes, text: str) -> None:
    assert escape(raw) == text


def test_an_image_without_digests_has_no_content_field() -> None:
    lines = list(dump_lines(Bootstrap(one_vector("tarfs").bootstrap)))
    assert {line.split(" ")[-1] for line in lines} == {"-"}


def test_the_page_names_every_field_in_order() -> None:
    rows = re.findall(r"^\| (\w+) \| .* \| `(\S+)` \|$", _PAGE.read_text(), re.MULTILINE)
    assert tuple(field for field, _ in rows) == FIELDS
    (example,) = re.findall(r"^ {4}(/.*)$", _PAGE.read_text(), re.MULTILINE)
    assert len(example.split(" ")) == len(FIELDS)


def test_the_line_of_the_page_is_a_line_of_that_tree() -> None:
    (example,) = re.findall(r"^ {4}(/.*)$", _PAGE.read_text(), re.MULTILINE)
    motd = file(b"motd", b"Hello, world!", mtime=1_700_000_000, xattrs={b"user.note": b"hello there"})
    assert _lines(tree(directory(b"etc", motd)))[-1] == example


def test_files_that_share_chunk_entries_do_not_make_the_dump_quadratic() -> None:
    image = image_of(tree(*[file(f"{n:03}".encode(), b"%d" % n) for n in range(100)]), chunk_size=4096)
    editor = Editor(image.bootstrap)
    for number in range(100):
        editor.inode(f"/{number:03}".encode(), size=40 * 4096)
    with pytest.raises(FormatInvalid):
        list(dump_lines(Bootstrap(bytes(editor.raw))))
