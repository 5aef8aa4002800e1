"""Which chunks share a unit of a blob, and in which order they lie in it: decided from digests alone."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

from rafs.unit_cutter import UnitCutter
from rafs.unit_order import ordered_units


def planned_units(
    sizes: Mapping[bytes, int], batch_size: int, continued: Container[tuple[bytes, bytes]]
) -> Iterator[list[bytes]]:
    """The digests of one unit after the other, each in the order in which its chunks lie.

    *sizes*: bytes by digest, in the order in which the chunks are wanted; *continued*: see `ordered_units`.
    """
    cutter = UnitCutter(batch_size)
    unit: list[bytes] = []
    for digest, size in sizes.items():
        if cutter.begins_unit(size, digest) and unit:
            yield from ordered_units(unit, continued)
            unit = []
        unit.append(digest)
    if unit:
        yield from ordered_units(unit, continued)
