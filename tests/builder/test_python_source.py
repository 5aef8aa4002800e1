"""What a source imports at once, told from its text."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

import pytest

from builder.hot.python_source import imported_names


@pytest.mark.parametrize(
    ("source", "package", "names"),
    [
        ("import a", "", ["a"]),
        ("import a, b.c as d", "", ["a", "b.c"]),
        ("from a import b", "", ["a", "a.b"]),
        ("from a.b import (c,\n  d as e, # why\n)\n", "", ["a.b", "a.b.c", "a.b.d"]),
        ("from a import *", "", ["a"]),
        ("from . import b", "p.q", ["p.q", "p.q.b"]),
        ("from .b import c", "p.q", ["p.q.b", "p.q.b.c"]),
        ("from ..b import c", "p.q", ["p.b", "p.b.c"]),
        ("from ...b import c", "p", []),
        ("import a\\\n , b", "", ["a", "b"]),
        ("try:\n    import fast\nexcept ImportError:\n    import slow\n", "", ["fast", "slow"]),
        ("try: import fast\nexcept ImportError: fast = None\n", "", ["fast"]),
        ("def f():\n    import later\nimport now\n", "", ["now"]),
        ("class A:\n    import never\n\n    def f(self):\n        import later\nimport now\n", "", ["now"]),
        ("if TYPE_CHECKING:\n    import types_only\nimport now\n", "", ["now"]),
        ("if sys.platform == 'linux':\n    import here\n", "", ["here"]),
        ("# import a\nimportant = 1\nfrom_here = 2\n", "", []),
        ("import é", "", []),
        ("import a; import b", "", ["a"]),
    ],
)
def test_statements_outside_functions_name_modules(source: str, package: str, names: list[str]) -> None:
    assert imported_names(source.encode(), package) == names


def test_the_main_block_counts_only_for_the_program() -> None:
    source = b"if __name__ == '__main__':\n    import cli\n"
    assert imported_names(source, "") == []
    assert imported_names(source, "", is_main=True) == ["cli"]


@pytest.mark.parametrize(
    "source", [b"\xff\xfe\0import", b"from", b"import (", b"from . import", b"(" * 9999, b"\\\n" * 99]
)
def test_bytes_that_are_no_source_name_nothing(source: bytes) -> None:
    assert imported_names(source, "p") in ([], ["p"])


def test_the_scan_finds_what_the_parser_finds_in_the_standard_library() -> None:
    missed = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        source = path.read_bytes()
        wanted = set(_top_level_imports(ast.parse(source)))
        missed += [f"{path.name}: {name}" for name in wanted - set(imported_names(source, ""))]
    assert missed == []


def _top_level_imports(tree: ast.Module) -> list[str]:
    """Modules of plain `import` and absolute `from` statements directly in a module's body."""
    names = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return names
