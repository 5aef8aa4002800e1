"""Which modules a Python source imports while it is being imported itself, told from its text.

A scan of lines, not a parser: the source may be of any version of Python and is not ours, a module too many
costs nothing but an early fetch, and it is ten times faster. Not here: where modules lie (`python_imports`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_NAME: Final = r"[A-Za-z_][\w.]*"
_IMPORT: Final = re.compile(rf"import\s+({_NAME}(?:\s+as\s+\w+)?(?:\s*,\s*{_NAME}(?:\s+as\s+\w+)?)*)")
_FROM: Final = re.compile(rf"from\s+(\.*)\s*((?:{_NAME})?)\s*import\s+(.*)", re.DOTALL)
# What only type checkers follow, and a function's or class's body, which runs later or holds no imports.
_SKIPPED_BLOCK: Final = re.compile(r"(?:async\s+def|def|class)\b|if\s+(?:typing\.|t\.)?TYPE_CHECKING\b")
_MAIN_BLOCK: Final = re.compile(r"if\s+__name__\s*==")
_NAMES_LIMIT: Final = 512  # per source


def imported_names(source: bytes, package: str, *, is_main: bool = False) -> list[str]:
    """Absolute dotted names of the modules that *source* may import at once, in order, without repetition.

    *package* is the dotted name relative imports start from, empty at the top. `from a import b` gives both
    `a` and `a.b`: only the file system knows whether `b` is a module. The block under `if __name__ == …`
    counts only with *is_main*.
    """
    found: dict[str, None] = {}
    for statement in _statements(source.decode("utf-8", "replace"), is_main):
        for name in _names_in(statement, package):
            found[name] = None
        if len(found) >= _NAMES_LIMIT:
            break
    return list(found)


def _statements(text: str, is_main: bool) -> Iterator[str]:
    """Import statements outside functions and classes, each joined into one line."""
    skipped_indent: int | None = None
    lines = iter(text.splitlines())
    for line in lines:
        bare = line.lstrip()
        if not bare or bare.startswith("#"):
            continue
        indent = len(line) - len(bare)
        if skipped_indent is not None and indent > skipped_indent:
            continue
        skipped_indent = None
        if _SKIPPED_BLOCK.match(bare) or (not is_main and _MAIN_BLOCK.match(bare)):
            skipped_indent = indent
            continue
        # One-line forms such as `try: import x` count as well.
        start = bare.find("import ") if bare.startswith(("try:", "else:", "if ")) else 0
        bare = bare[max(start, 0) :]
        if not bare.startswith(("import ", "from ")):
            continue
        while bare.endswith("\\") or bare.count("(") > bare.count(")"):
            following = next(lines, None)
            if following is None:
                break
            bare = bare.rstrip("\\") + " " + following.split("#")[0].strip()
        yield bare.split("#")[0]


def _names_in(statement: str, package: str) -> Iterator[str]:
    plain = _IMPORT.match(statement)
    if plain is not None:
        for item in plain[1].split(","):
            yield item.split()[0]
        return
    relative = _FROM.match(statement)
    if relative is None:
        return
    dots, base, items = relative.groups()
    if dots:
        parts = package.split(".") if package else []
        if len(dots) - 1 > len(parts):
            return
        kept = parts[: len(parts) - (len(dots) - 1)]
        base = ".".join([*kept, base] if base else kept)
    if base:
        yield base
    for item in items.strip("() \t\r\n").split(","):
        word = item.split()[:1]
        if word and re.fullmatch(r"[A-Za-z_]\w*", word[0]):
            yield f"{base}.{word[0]}" if base else word[0]
