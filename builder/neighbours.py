"""Which chunks a layer must not take from where they are: those that would lie right behind what comes first.

`rafs.unit_order` says why no file may go on with its right neighbour of the same unit. The order in which a
blob has its chunks is that of its own layer; a file of a higher one may have two of them just so. The second
is then taken from another blob that has it, or stored again with what the layer brings along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from builder.layers.digest_runs import runs_of
from builder.layers.tar_index import TarEntry

NOWHERE: Final = -2  # next to no reference, nor to itself


def moved_chunks(
    files: Sequence[TarEntry],
    known: Mapping[bytes, int],
    spares: Mapping[bytes, Sequence[int]],
    in_one_unit: Callable[[int, int], bool],
) -> dict[bytes, int]:
    """References for all of *files*, by digest, where they are not those that are *known*.

    `NOWHERE` stands for a chunk that has to be stored again. *spares* are further references, ascending.
    *in_one_unit* is asked of two whose numbers are neighbours.
    """
    moved: dict[bytes, int] = {}
    # A chunk that moves may come to lie behind another file's. It goes on only, so this ends.
    while _move(files, known, spares, in_one_unit, moved):
        pass
    return moved


def _move(
    files: Sequence[TarEntry],
    known: Mapping[bytes, int],
    spares: Mapping[bytes, Sequence[int]],
    in_one_unit: Callable[[int, int], bool],
    moved: dict[bytes, int],
) -> bool:
    """Look at *files* once; whether anything moved."""
    found = False
    for entry in files:
        if len(entry.digests) < 2:
            continue  # most files, and it is cheaper than the loop
        before = NOWHERE
        for digest, _ in runs_of(entry.digests):
            ref = moved[digest] if digest in moved else known.get(digest, NOWHERE)
            while ref == before + 1 and in_one_unit(before, ref):
                passed = ref
                ref = next((one for one in spares.get(digest, ()) if one > passed), NOWHERE)
                moved[digest] = ref
                found = True
            before = ref
    return found
