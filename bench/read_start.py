"""Reads out of a mounted image what the demo's program would touch, prints READY, waits for its input to end.

A program of its own (`python -m bench.read_start MOUNTPOINT [PATH…]`), so that it is timed as one. With paths
it reads those instead, following the image's own symbolic links.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

LIBRARIES = (
    "libc",
    "libm",
    "libz",
    "libexpat",
    "libssl",
    "libcrypto",
    "libsqlite3",
    "libffi",
    "liblzma",
    "libbz2",
)
LINKS_LIMIT = 40  # as the kernel's MAXSYMLINKS


def demo_modules() -> list[str]:
    """Return the names the demo's program imports, as it spells them."""
    program = Path(__file__).with_name("demo_program.py")
    tree = ast.parse(program.read_bytes())
    return [name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names]


def demo_files(root: Path) -> Iterator[Path]:
    """Yield the interpreter, its libraries, and the compiled modules, as far as the image has them."""
    yield inside(root, "/usr/bin/python3")
    for directory in (root / "usr/lib").glob("*-linux-gnu*"):
        for library in LIBRARIES:
            yield from directory.glob(f"{library}.so*")
    for stdlib in (root / "usr/lib").glob("python3.*"):
        yield from stdlib.glob("lib-dynload/*.so")
        for module in demo_modules():
            path = stdlib / module.replace(".", "/")
            yield from (path.parent / "__pycache__").glob(f"{path.name}.cpython-*.pyc")
            yield from (path / "__pycache__").glob("*.pyc")


def inside(root: Path, path: str) -> Path:
    """Return the host path of *path* in the tree at *root*, its symbolic links followed inside that tree."""
    parts, done, links = list(PurePosixPath(path).parts[1:]), PurePosixPath("/"), 0
    while parts:
        part = parts.pop(0)
        if part == "..":
            done = done.parent
            continue
        host = root / str(done / part).lstrip("/")
        if host.is_symlink() and links < LINKS_LIMIT:
            links += 1
            target = PurePosixPath(host.readlink())
            parts = [*(target.parts[1:] if target.is_absolute() else target.parts), *parts]
            done = PurePosixPath("/") if target.is_absolute() else done
        else:
            done /= part
    return root / str(done).lstrip("/")


def main() -> None:
    """Read, report, wait."""
    root, paths = Path(sys.argv[1]), sys.argv[2:]
    files = (
        {file.resolve() for file in demo_files(root)} if not paths else {inside(root, path) for path in paths}
    )
    size = 0
    for file in sorted(files):
        if file.is_file():
            size += len(file.read_bytes())
    print(f"READY {len(files)} files, {size} bytes", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
