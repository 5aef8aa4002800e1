"""Localised images as files, as far as mounting them takes. Standard library only."""

from __future__ import annotations

from pathlib import Path

from rafs.window_slots import WindowDevice, front_size, read_superblock, window_slots

LOCALISED = "localised-"  # how their names begin
_BLOCK = 4096


def devices_of(image: Path) -> tuple[WindowDevice, ...]:
    """The windows that the localised image in the file *image* is mounted over. That it is undamaged is not
    looked at.

    Raises:
        OSError, FormatInvalid: it cannot be read, or is none.
    """
    with image.open("rb") as file:
        superblock = read_superblock(file.read(_BLOCK))
        file.seek(0)
        return window_slots(file.read(front_size(superblock)), superblock)
