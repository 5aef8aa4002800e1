"""The hot list is what the kernel and the dynamic loader open first; nonsense only makes it shorter."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import SpoolFailed
from builder.hot.elf import Needs, read_needs
from builder.hot.file_looks import FileLooks
from builder.hot.hot_list import find_hot_files
from rafs.tree import Node, walk
from tests.support.trees import Entry, directory, file, node_tree, symlink, tree


def elf(
    *needed: bytes, interpreter: bytes = b"", runpath: bytes = b"", wide: bool = True, little: bool = True
) -> bytes:
    """A shared object or program as far as a loader reads it: headers, a dynamic section, strings."""
    order = "<" if little else ">"
    header, row, pair = (64, 56, 16) if wide else (52, 32, 8)
    strings = b"\0" + b"".join(name + b"\0" for name in (*needed, runpath, interpreter))
    count = 3
    dynamic_at = header + count * row
    tags = [(1, strings.index(b"\0" + name + b"\0") + 1) for name in needed]
    if runpath:
        tags.append((29, strings.index(runpath + b"\0")))
    strings_at = dynamic_at + (len(tags) + 2) * pair
    # Addresses differ from offsets, as they do in real files.
    tags += [(5, strings_at + 0x1000), (0, 0)]
    dynamic = b"".join(struct.pack(order + ("qQ" if wide else "iI"), *tag) for tag in tags)
    total = strings_at + len(strings)
    interpreter_at = strings_at + strings.rindex(interpreter + b"\0")
    segments = [(1, 0, total), (2, dynamic_at, len(dynamic))]
    segments.append((3, interpreter_at, len(interpreter) + 1) if interpreter else (0, 0, 0))

    def segment(kind: int, offset: int, size: int) -> bytes:
        if wide:
            return struct.pack(order + "IIQQQQQQ", kind, 4, offset, offset + 0x1000, 0, size, size, 1)
        return struct.pack(order + "IIIIIIII", kind, offset, offset + 0x1000, 0, size, size, 4, 1)

    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if little else 2, 1]) + bytes(9)
    word = "Q" if wide else "I"
    head = ident + struct.pack(
        order + f"HHI{word}{word}{word}IHHHHHH", 3, 62, 1, 0, header, 0, 0, header, row, count, 0, 0, 0
    )
    return head + b"".join(segment(*one) for one in segments) + dynamic + strings


def hot(root: Entry, config: Mapping[str, Any]) -> list[bytes]:
    contents: dict[int, bytes] = {}

    def store(entry: Entry) -> Sequence[int]:
        contents[len(contents)] = entry.content
        return (len(contents) - 1,)

    nodes = node_tree(root, store)
    paths = {node: path for path, node in walk(nodes)}

    def read(node: Node, offset: int, size: int) -> bytes:
        return contents[node.chunks[0]][offset : offset + size]

    return [paths[node] for node in find_hot_files(nodes, {"config": config}, FileLooks(read))]


def program(name: bytes, content: bytes) -> Entry:
    return file(name, content, mode=0o755)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("little", [True, False])
def test_needs_of_every_kind_of_elf(wide: bool, little: bool) -> None:
    raw = elf(b"libc.so", b"libz.so", interpreter=b"/lib/ld.so", runpath=b"/a:/b", wide=wide, little=little)
    needs = read_needs(lambda offset, size: raw[offset : offset + size])
    assert needs == Needs(b"/lib/ld.so", (b"libc.so", b"libz.so"), (b"/a", b"/b"))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=8), st.integers(0, 500))
def test_no_elf_can_make_it_fail(at: int, noise: bytes, cut: int) -> None:
    raw = bytearray(elf(b"libc.so", interpreter=b"/lib/ld.so"))
    raw[at : at + len(noise)] = noise
    broken = bytes(raw[:cut])
    found = read_needs(lambda offset, size: broken[offset : offset + size])
    assert found is None or len(found.libraries) <= 256


LIBRARIES = directory(
    b"lib",
    file(b"ld.so", elf()),
    directory(b"x86_64-linux-gnu", file(b"libc.so", elf()), file(b"libm.so", elf(b"libc.so"))),
)


def test_program_loader_and_libraries_breadth_first() -> None:
    needed = (b"libm.so", b"libown.so", b"libmissing.so")
    app = elf(*needed, interpreter=b"/lib/ld.so", runpath=b"$ORIGIN/../own")
    opt = directory(
        b"opt", directory(b"bin", program(b"app", app)), directory(b"own", file(b"libown.so", elf()))
    )
    root = tree(LIBRARIES, opt)
    assert hot(root, {"Entrypoint": ["/opt/bin/app"]}) == [
        b"/opt/bin/app",
        b"/lib/ld.so",
        b"/lib/x86_64-linux-gnu/libm.so",
        b"/opt/own/libown.so",
        b"/lib/x86_64-linux-gnu/libc.so",
    ]


def test_the_loaders_configuration_goes_before_its_default_folders() -> None:
    root = tree(
        LIBRARIES,
        directory(b"etc", directory(b"ld.so.conf.d", file(b"a.conf", b"# first\n/special\n"))),
        directory(b"special", file(b"libc.so", elf())),
        program(b"app", elf(b"libc.so")),
    )
    assert hot(root, {"Cmd": ["/app"]}) == [b"/app", b"/special/libc.so"]
    assert hot(root, {"Cmd": ["/app"], "Env": ["LD_LIBRARY_PATH=/lib/x86_64-linux-gnu"]})[1] == (
        b"/lib/x86_64-linux-gnu/libc.so"
    )


def test_path_symlinks_scripts_and_arguments_are_followed() -> None:
    root = tree(
        directory(
            b"usr",
            directory(
                b"bin",
                symlink(b"python3", b"python3.11"),
                program(b"python3.11", elf()),
                program(b"env", elf()),
                file(b"start", b"not executable"),
            ),
            directory(b"local", directory(b"bin", program(b"start", b"#!/usr/bin/env -S python3 -u\n"))),
        ),
        symlink(b"bin", b"usr/bin"),
        directory(b"app", file(b"main.py", b"print()"), file(b"other.py", b"")),
    )
    config = {
        "Entrypoint": ["start"],
        "Cmd": ["--flag", "main.py", "missing.py", "/app"],
        "WorkingDir": "/app",
        "Env": ["PATH=/bin:/usr/local/bin"],
    }
    assert hot(root, config) == [
        b"/usr/local/bin/start", b"/usr/bin/env", b"/usr/bin/python3.11", b"/app/main.py",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"Cmd": None},
        {"Cmd": "text"},
        {"Cmd": [1, {}]},
        {"Cmd": [""]},
        {"Cmd": ["/nothing"]},
        {"Cmd": ["\ud800"], "Env": [7], "WorkingDir": 9},
        {"Cmd": ["/loop"]},
        {"Cmd": ["/self"]},
        {"Cmd": ["/env"]},
        {"Cmd": ["/lib"]},
    ],
)
def test_nonsense_is_left_out(config: dict[str, Any]) -> None:
    root = tree(
        LIBRARIES,
        symlink(b"loop", b"loop"),
        program(b"self", b"#!/self\n"),
        directory(b"usr", directory(b"bin", program(b"env", b"#!/usr/bin/env env\n"))),
        symlink(b"env", b"usr/bin/env"),
    )
    assert len(hot(root, config)) <= 1
    assert find_hot_files(Node(0o040755), {"config": config}, FileLooks(lambda node, offset, size: b"")) == []


def test_an_unreadable_spool_is_not_the_hot_lists_business() -> None:
    nodes = node_tree(tree(program(b"app", elf(b"libc.so"))), lambda entry: (0,))

    def read(node: Node, offset: int, size: int) -> bytes:
        raise SpoolFailed("input/output error")

    assert find_hot_files(nodes, {"config": {"Cmd": ["/app"]}}, FileLooks(read)) == [nodes.children[b"app"]]
