"""`nopull diff` for people: a line per path if wanted, then what is shared, added and removed."""

from __future__ import annotations

from collections.abc import Iterator

from builder.difference import Counted, Difference, Parts
from chunk_store.byte_size import human_size
from rafs.dump import escape


def difference_lines(found: Difference, *, paths: bool) -> Iterator[str]:
    """Yield the lines."""
    if paths:
        marks = {path: f"+ {escape(path)}" for path in found.added}
        marks.update((path, f"- {escape(path)}") for path in found.removed)
        for path, what in found.changed.items():
            marks[path] = f"~ {escape(path)} ({', '.join(what)})"
        yield from (marks[path] for path in sorted(marks))
    counts = f"{len(found.added)} added, {len(found.removed)} removed, {len(found.changed)} changed"
    yield f"paths: {found.same} the same, {counts}"
    for name, parts in (("contents", found.files), ("chunks", found.chunks), ("blobs", found.blobs)):
        yield f"{name}: {_parts(parts)}"
    if not found.comparable:
        yield "the images have chunks of different sizes or digests, so equal contents look different"


def _parts(parts: Parts) -> str:
    words = (("shared", parts.shared), ("added", parts.added), ("removed", parts.removed))
    return ", ".join(f"{_counted(part)} {name}" for name, part in words)


def _counted(part: Counted) -> str:
    return f"{part.count} ({human_size(part.bytes)})"
