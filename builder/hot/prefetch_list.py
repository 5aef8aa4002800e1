"""What a user wants prefetched: paths, patterns and lists of them, turned into nodes of the image's tree.

A list is a text file with a path or pattern per line, in the order of need, or the JSON that Nydus'
`optimize` takes. The prefetch table is written from it, and the hot blob (`hot_blob`) is made of it.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from builder.errors import PrefetchInvalid
from builder.layers.tree_paths import Unresolvable, directory_at, file_at
from rafs.directory import name_text
from rafs.tree import Node, walk

_LIST_LIMIT: Final = 16 << 20  # bytes
_NYDUS_LIST: Final = '{"version": "v1", "files": [{"path": "/…"}]}'
_MAGIC: Final = re.compile(rb"[*?\[]")


def read_wishes(given: Sequence[str]) -> tuple[bytes, ...]:
    """The paths and patterns of *given*, in order, where `@FILE` stands for those in FILE.

    Raises:
        PrefetchInvalid: one does not begin with a slash, or a file cannot be read.
    """
    found: list[bytes] = []
    for text in given:
        listed = text.startswith("@")
        for wish in _read_list(Path(text[1:])) if listed else [text.encode("utf-8", "surrogateescape")]:
            if not wish.startswith(b"/"):
                raise PrefetchInvalid(
                    f"prefetch {name_text(wish[:200])!r}: "
                    "expected a path or pattern that begins with a slash, or @FILE"
                )
            found.append(wish)
    return tuple(found)


def find_wished(root: Node, wishes: Sequence[bytes]) -> tuple[list[Node], list[bytes]]:
    """(nodes, wishes that name nothing): files and directories, once each, in the order of *wishes*.

    A wish is a pattern only if nothing has that name: traces print names as they are. Symbolic links are
    followed to files and directories. In patterns `*` and `?` stay within a name, `**` does not. The root
    means everything; it is the only node then, as readers expect. What is no pattern either names nothing,
    which is found too late to be worth a conversion.
    """
    found: dict[Node, None] = {}
    unmatched = []
    names: list[bytes] | None = None
    for wish in wishes:
        nodes = list(_at(root, wish))
        if not nodes and _MAGIC.search(wish) and (pattern := _pattern(wish)):
            names = names if names is not None else [path for path, _ in walk(root)]
            nodes = [node for name in names if pattern.fullmatch(name) for node in _at(root, name)]
        if not nodes:
            unmatched.append(wish)
        found.update(dict.fromkeys(nodes))
    return ([root] if root in found else list(found)), unmatched


def _at(root: Node, path: bytes) -> Iterator[Node]:
    located = file_at(root, path)
    if located is not None:
        yield located[1]
        return
    try:
        directory = directory_at(root, path, create=False)
    except Unresolvable:
        return
    if directory is not None:
        yield directory


def _pattern(wish: bytes) -> re.Pattern[bytes] | None:
    try:
        return re.compile(_expression(wish), re.DOTALL)
    except re.error:  # of a range like [z-a]
        return None


def _expression(pattern: bytes) -> bytes:
    parts = re.split(rb"(\*\*|\*|\?|\[!?[^\]/]+\])", pattern)
    shown = []
    for part in parts:
        if part == b"**":
            shown.append(b".*")
        elif part == b"*":
            shown.append(b"[^/]*")
        elif part == b"?":
            shown.append(b"[^/]")
        elif part.startswith(b"[") and part.endswith(b"]") and len(part) > 2:
            negated = part.startswith(b"[!")
            # The last three, and two hyphens, are kept by `re` for set operations to come.
            letters = re.sub(rb"([\\\[^&|~]|(?<=-)-)", rb"\\\1", part[2:-1] if negated else part[1:-1])
            shown.append(b"[" + b"^" * negated + letters + b"]")
        else:
            shown.append(re.escape(part))
    return b"".join(shown)


def _read_list(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as opened:
            raw = opened.read(_LIST_LIMIT + 1)
    except OSError as error:
        raise PrefetchInvalid(f"reading the prefetch list {path}: {error.strerror}") from error
    if len(raw) > _LIST_LIMIT:
        raise PrefetchInvalid(f"the prefetch list {path} has more than {_LIST_LIMIT} bytes")
    raw = raw.removeprefix(BOM_UTF8)  # of editors that put one there
    if not raw.lstrip().startswith(b"{"):
        lines = (line.strip() for line in raw.splitlines())
        return [line for line in lines if line and not line.startswith(b"#")]
    refusal = f"the prefetch list {path} is not JSON like {_NYDUS_LIST}"
    try:
        files = json.loads(raw)["files"]
        wishes = [str(one["path"]).encode("utf-8", "surrogateescape") for one in files]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PrefetchInvalid(f"{refusal}: {error!r}") from error
    if not isinstance(files, list):
        raise PrefetchInvalid(f"{refusal}: its files are no list")
    return wishes
