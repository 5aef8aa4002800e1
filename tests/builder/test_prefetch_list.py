"""What a user wants first is found in the tree in the user's order, and goes before what is computed."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from dataclasses import replace
from pathlib import Path

import pytest

import nopull
from builder.errors import PrefetchInvalid
from builder.hot.prefetch_list import find_wished, read_wishes
from rafs.tree import Node, walk
from tests.builder.layouts import Layout, Published, convert_layout
from tests.builder.test_convert import SMALL
from tests.support.trees import directory, file, layer_tar, node_tree, symlink, tree

TREE = tree(
    directory(
        b"usr",
        directory(b"lib", file(b"a.py", b"a"), file(b"b.py", b"b"), directory(b"deep", file(b"c.py", b"c"))),
        file(b"x[1]", b"x"),
    ),
    symlink(b"lib", b"usr/lib"),
    directory(b"bin", file(b"sh", b"sh", mode=0o755), symlink(b"alias", b"sh"), symlink(b"gone", b"no")),
)


def wished(*wishes: bytes) -> tuple[list[bytes], list[bytes]]:
    root: Node = node_tree(TREE, lambda entry: (0,))
    names = {node: path for path, node in walk(root)}
    nodes, unmatched = find_wished(root, wishes)
    return [names[node] for node in nodes], unmatched


@pytest.mark.parametrize(
    ("wishes", "found", "unmatched"),
    [
        ([b"/usr/lib/b.py", b"/usr/lib/a.py"], [b"/usr/lib/b.py", b"/usr/lib/a.py"], []),
        ([b"/bin/alias", b"/bin/sh"], [b"/bin/sh"], []),
        ([b"/lib/a.py", b"/lib"], [b"/usr/lib/a.py", b"/usr/lib"], []),
        ([b"/usr/lib/*.py"], [b"/usr/lib/a.py", b"/usr/lib/b.py"], []),
        ([b"/usr/**.py"], [b"/usr/lib/a.py", b"/usr/lib/b.py", b"/usr/lib/deep/c.py"], []),
        ([b"/usr/lib/[!a].p?"], [b"/usr/lib/b.py"], []),
        ([b"/usr/x[[]1]"], [b"/usr/x[1]"], []),
        ([b"/usr/x[1]"], [b"/usr/x[1]"], []),
        ([b"/usr/y[1]", b"/bin/[a&&s||~~+--]h"], [b"/bin/sh"], [b"/usr/y[1]"]),
        ([b"/none", b"/bin/gone", b"/usr/*.py"], [], [b"/none", b"/bin/gone", b"/usr/*.py"]),
        ([b"/bin/sh", b"/"], [b"/"], []),
    ],
)
def test_paths_and_patterns(wishes: list[bytes], found: list[bytes], unmatched: list[bytes]) -> None:
    assert wished(*wishes) == (found, unmatched)


def test_names_that_a_trace_printed_are_no_patterns() -> None:
    named = tree(directory(b"app", file(b"[id].js", b"a"), file(b"i.js", b"b"), file(b"*", b"c")))
    root = node_tree(named, lambda entry: (0,))
    names = {node: path for path, node in walk(root)}
    found, unmatched = find_wished(root, [b"/app/[id].js", b"/app/*"])
    assert ([names[node] for node in found], unmatched) == ([b"/app/[id].js", b"/app/*"], [])
    found, unmatched = find_wished(root, [b"/app/[i].js"])
    assert ([names[node] for node in found], unmatched) == ([b"/app/i.js"], [])


def test_lists_are_lines_or_nydus_json(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"# first\n/bin/sh\n\n/\xff\n")
    (tmp_path / "json").write_text('{"version": "v1", "files": [{"path": "/a", "ranges": [[0, 1]]}]}')
    given = ["/z", f"@{tmp_path / 'lines'}", f"@{tmp_path / 'json'}"]
    assert read_wishes(given) == (b"/z", b"/bin/sh", b"/\xff", b"/a")
    for name in ("lines", "json"):  # as some editors store them
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(BOM_UTF8 + content)
    assert read_wishes(given) == (b"/z", b"/bin/sh", b"/\xff", b"/a")


@pytest.mark.parametrize(("given", "shown"), [("bin/é", "'bin/é'"), ("a\x1b\udcff", r"'a\x1b\\xff'")])
def test_a_path_without_its_slash_is_shown_as_it_was_written(given: str, shown: str) -> None:
    with pytest.raises(PrefetchInvalid, match=re.escape(f"prefetch {shown}: expected")):
        read_wishes([given])


@pytest.mark.parametrize("content", [b"relative\n", b"{}", b'{"files": [1]}', b'{"files": {}}', b"{", None])
def test_what_is_no_list_is_a_usage_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "list").write_bytes(content)
    with pytest.raises(PrefetchInvalid):
        read_wishes([f"@{tmp_path / 'list'}"])
    Layout(tmp_path / "in").add_image([layer_tar([TREE])])
    source, destination = f"oci:{tmp_path / 'in'}:app", f"oci:{tmp_path / 'out'}:lazy"
    assert nopull.main(["convert", "--prefetch", f"@{tmp_path / 'list'}", source, destination]) == 2


def test_the_table_has_the_users_files_first_and_blobs_stay_the_same(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image([layer_tar([TREE])], config={"Cmd": ["/bin/sh"]})
    convert_layout(tmp_path / "in", tmp_path / "plain", SMALL)
    options = replace(SMALL, prefetch=(b"/usr/lib/b.py", b"/usr/lib/deep"))
    report = convert_layout(tmp_path / "in", tmp_path / "out", options)
    image = Published(tmp_path / "out")
    hot = [image.path_of(nid) for nid in image.bootstrap.prefetch_nids()]
    assert hot == [b"/usr/lib/b.py", b"/usr/lib/deep", b"/bin/sh"]
    assert image.findings() == []
    assert report.images[0].hot_files == 3
    assert image.manifest["layers"][0] == Published(tmp_path / "plain").manifest["layers"][0]


@pytest.mark.parametrize("wish", ["/usr/lib/tpyo", "/usr/lib/t*", "/usr/lib/[z-a]*"])
def test_a_wish_that_names_nothing_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wish: str
) -> None:
    Layout(tmp_path / "in").add_image([layer_tar([TREE])])
    source, destination = f"oci:{tmp_path / 'in'}:app", f"oci:{tmp_path / 'out'}:lazy"
    assert nopull.main(["convert", "--prefetch", wish, source, destination]) == 0
    assert wish in caplog.text
