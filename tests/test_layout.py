"""The shape of the project: imports point down, every package is shipped, no vague names, no dead links."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Package: what it may import of ours.
MAY_IMPORT: dict[str, set[str]] = {
    "rafs": set(),
    "registry_client": set(),
    "chunk_store": {"rafs"},
    "fuse_fs": {"chunk_store", "rafs"},
    "erofs_fs": {"chunk_store", "rafs"},
    "builder": {"rafs", "registry_client"},
    "launch": {"builder", "fuse_fs", "erofs_fs", "chunk_store", "rafs", "registry_client"},
    "bench": {"launch", "builder", "fuse_fs", "erofs_fs", "chunk_store", "rafs", "registry_client"},
    # Verbs are loaded by what the table says; of the packages it imports only what prints.
    "command": {"launch", "chunk_store", "rafs"},
}
# Room of a package: which others of its package it may import; what lies beside the rooms all may.
ROOMS: dict[str, set[str]] = {
    "registry_client.transport": set(),
    "registry_client.accounts": {"registry_client.transport"},
    "registry_client.registries": {"registry_client.accounts", "registry_client.transport"},
    "registry_client.layouts": set(),
    "builder.layers": set(),
    "builder.hot": {"builder.layers"},
    "launch.images": set(),
    "launch.kernel_mounts": {"launch.images"},
    "launch.fuse_mounts": {"launch.images", "launch.kernel_mounts"},
    "launch.containers": {"launch.images", "launch.kernel_mounts", "launch.fuse_mounts"},
}
OURS = {*MAY_IMPORT, "nopull", "tests"}
TYPE_CHECKING = {"TYPE_CHECKING", "typing.TYPE_CHECKING"}

# Command-line modules are loaded by the command alone, never on the way to a mount.
VERB_MODULES = re.compile(r"_verbs?$|^verbs$")

# Modules that may only be imported where they are used: they cost more than the whole start of a mount.
HEAVY = {"requests", "rich", "matplotlib", "ssl", "asyncio"}
LIGHT_PACKAGES = ("rafs", "chunk_store", "fuse_fs", "erofs_fs")

VAGUE = re.compile(r"(?:^|_)(manager|handler|helper|utils?|data|info|process|common)s?(?:_|$)", re.IGNORECASE)
VAGUE_CAMEL = re.compile(r"(Manager|Handler|Helper|Utils?|Data|Info|Process|Common)s?(?=[A-Z]|$)")
# The format's own word for a row of its tables (RAFS "chunk info"), and Python's for a tar header.
TERMS = re.compile(r"chunk_?info|tar_?info", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement of ours: who, whom, where."""

    importer: str
    imported: str
    place: str


def modules(package: str) -> Iterator[Path]:
    """Yield the source files of a package."""
    yield from sorted((ROOT / package).rglob("*.py"))


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the full name and line of everything a file imports, wherever in the file it does."""
    tree = ast.parse(path.read_bytes(), str(path))
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*above, *(node.module or "").split(".")]).strip("."), node.lineno
        elif isinstance(node, ast.Call) and _is_import_call(node):
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value, node.lineno


def _is_import_call(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in {"import_module", "__import__"} and bool(node.args)


def test_imports_point_down_only() -> None:
    upward = [
        f"{path.relative_to(ROOT)}:{line}: {package} may not import {imported}"
        for package, allowed in MAY_IMPORT.items()
        for path in modules(package)
        for imported, line in imports_of(path)
        if (top := imported.partition(".")[0]) in OURS and top != package and top not in allowed
    ]
    assert upward == []


def test_rooms_of_a_package_import_each_other_downward_only() -> None:
    upward = [
        f"{path.relative_to(ROOT)}:{line}: {room} may not import {imported}"
        for room, allowed in ROOMS.items()
        for path in modules(room.replace(".", "/"))
        for imported, line in imports_of(path)
        if (other := ".".join(imported.split(".")[:2])) in ROOMS and other not in {room, *allowed}
        if other.partition(".")[0] == room.partition(".")[0]
    ]
    assert upward == []


def statements(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Yield the statements of a body and of all within it, but for what only type checkers run."""
    for statement in body:
        yield statement
        parts = ["body", "handlers", "cases", "orelse", "finalbody"]
        if isinstance(statement, ast.If) and ast.unparse(statement.test) in TYPE_CHECKING:
            parts.remove("body")
        for part in parts:
            yield from statements(getattr(statement, part, ()))


def graph_of(package: str) -> dict[str, set[str]]:
    """Return what each module of a package imports of it when run, at its top or in a function."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in modules(package)
    }
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        above = path.relative_to(ROOT).parts[:-1]
        wanted: set[str] = set()
        for node in statements(ast.parse(path.read_bytes(), str(path)).body):
            if isinstance(node, ast.Import):
                wanted.update(name.name for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                start = above[: len(above) - node.level + 1] if node.level else ()
                origin = ".".join([*start, *([node.module] if node.module else [])])
                # What is no module of the package is a name in it.
                full = {f"{origin}.{name.name}" for name in node.names}
                wanted |= {one if one in files else origin for one in full}
        graph[module] = wanted & set(files) - {module}
    return graph


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Return one way through a graph that leads back to its start; nothing when there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_modules_of_a_package_import_each_other_in_no_circle(package: str) -> None:
    assert circle_in(graph_of(package)) == []


def test_a_circle_is_found_and_one_of_types_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("def late() -> None:\n    from pack import two\n")
    (package / "two.py").write_text("from pack.three import name\n")
    (package / "three.py").write_text("if TYPE_CHECKING:\n    from pack.one import late\n")
    assert circle_in(graph_of("pack")) == []
    (package / "three.py").write_text("from . import one\n")
    assert set(circle_in(graph_of("pack"))) == {"pack.one", "pack.two", "pack.three"}


def test_every_folder_with_modules_is_a_known_package() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert found == set(MAY_IMPORT)


def test_whatever_lies_with_the_system_tests_is_one() -> None:
    """The fast set does not even load that folder, see `dev`."""
    files = (ROOT / "tests/system").glob("test_*.py")
    assert [path.name for path in files if not re.search(r"\bpytestmark\b", path.read_text())] == []


def test_every_package_is_shipped() -> None:
    call = next(
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    listed = next(ast.literal_eval(word.value) for word in call.keywords if word.arg == "packages")
    on_disk = {
        ".".join(init.parent.relative_to(ROOT).parts)
        for package in MAY_IMPORT
        for init in (ROOT / package).rglob("__init__.py")
    }
    assert set(listed) == on_disk


def test_the_format_package_does_no_input_or_output() -> None:
    forbidden = {"os", "io", "pathlib", "socket", "subprocess", "shutil", "tempfile", "mmap", "urllib"}
    found = [
        f"{path.relative_to(ROOT)}:{line}: {imported}"
        for path in modules("rafs")
        for imported, line in imports_of(path)
        if imported.partition(".")[0] in forbidden
    ]
    assert found == []


@pytest.mark.parametrize("package", LIGHT_PACKAGES)
def test_packages_on_the_way_to_a_mount_start_light(package: str) -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in modules(package)
        if not VERB_MODULES.search(path.stem) and path.stem != "__main__"
    ]
    program = f"import sys, {', '.join(names)}; print(*sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


def names_in(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the names a file defines: itself, its classes, functions, arguments and variables."""
    yield path.stem, 0
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno


def test_no_name_is_vague() -> None:
    vague = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for package in [*MAY_IMPORT, "nopull.py"]
        for path in ([ROOT / package] if package.endswith(".py") else modules(package))
        for name, line in names_in(path)
        if VAGUE.search(plain := TERMS.sub("", name)) or VAGUE_CAMEL.search(plain)
    ]
    assert vague == []


def test_no_module_is_longer_than_600_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {count} lines"
        for package in [*MAY_IMPORT, "tests"]
        for path in modules(package)
        if (count := len(path.read_bytes().splitlines())) > 600
    ]
    assert long == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for package in MAY_IMPORT
        for path in modules(package)
        if (text := path.read_bytes().strip()) and not text.startswith(b'"""')
    ]
    assert silent == []


LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
HTML_LINK = re.compile(r"<(?:img|a|source)\b[^>]*?\b(?:src|href|srcset)=\"([^\"]+)\"")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def documents() -> list[Path]:
    """Return every Markdown page of the project."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").rglob("*.md")])


def anchors(text: str) -> set[str]:
    """Return the anchors that the usual renderers make of a page's headings."""
    found: set[str] = set()
    for line in FENCE.sub("", text).splitlines():
        if not (heading := re.match(r"#{1,6}\s+(.*?)\s*#*$", line)):
            continue
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (unique := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(unique)
    return found


def dead_links(page: Path) -> Iterator[str]:
    """Yield the links of a page that lead nowhere; those to the outside are not followed."""
    text = page.read_text(encoding="utf-8")
    body = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    for target in [*LINK.findall(body), *HTML_LINK.findall(body)]:
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        if not place.exists():
            yield f"{page.relative_to(ROOT)}: {target}: no such file"
        elif anchor and place.suffix == ".md" and anchor not in anchors(place.read_text(encoding="utf-8")):
            yield f"{page.relative_to(ROOT)}: {target}: no such heading"


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert list(dead_links(page)) == []


def test_a_dead_link_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# One thing\n[a](#one-thing) [b](#two) [c](gone.md) `[d](code.md)`\n", encoding="utf-8")
    assert [line.split(": ")[1] for line in dead_links(page)] == ["#two", "gone.md"]


def test_required_system_tests_are_named_once_and_exist_as_files() -> None:
    lines = (ROOT / ".ci" / "required-system-tests").read_text(encoding="utf-8").splitlines()
    wanted = [line for raw in lines if (line := raw.partition("#")[0].strip())]
    assert len(wanted) == len(set(wanted))
    assert [line for line in wanted if not (ROOT / line.partition("::")[0]).exists()] == []
