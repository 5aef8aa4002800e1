"""The device slots of a localised image: which windows it is to be mounted over, in the order of its devices.

What `localised` writes in front of an image and whoever mounts it reads. Nothing is verified here but
bounds: the keeper reads what `localised.read_devices` has accepted, and loads only this and the records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from .codes import DEVICE_SLOTS_OFFSET, EROFS_MAGIC, SUPERBLOCK_OFFSET
from .errors import FormatInvalid
from .records import DEVICE_SLOT, SUPERBLOCK, Superblock

if TYPE_CHECKING:
    from .windows import WindowId


_BLOCK_BITS: Final = (9, 12)  # 9: tarfs


class WindowDevice(NamedTuple):
    """One window as a device of the image."""

    id: WindowId
    length: int  # bytes, multiple of 4096


def front_size(superblock: Superblock) -> int:
    """Bytes of a localised image up to the end of its slots."""
    return DEVICE_SLOTS_OFFSET + DEVICE_SLOT.size * superblock.device_count


def read_superblock(image: bytes) -> Superblock:
    """The superblock of a localised *image*, of which the first block is enough.

    Raises:
        FormatInvalid: it is none.
    """
    superblock = SUPERBLOCK.unpack(image, SUPERBLOCK_OFFSET)
    slots_at = superblock.device_slot_index * DEVICE_SLOT.size
    is_ours = superblock.magic == EROFS_MAGIC and slots_at == DEVICE_SLOTS_OFFSET
    if not is_ours or not superblock.device_count or superblock.block_bits not in _BLOCK_BITS:
        raise FormatInvalid(f"not a localised image: magic {superblock.magic:#010x}")
    return superblock


def window_slots(image: bytes, superblock: Superblock) -> tuple[WindowDevice, ...]:
    """The windows named by the slots of *image*, of which `front_size` bytes are enough. The last slot is the
    mount's own file, not a window.

    Raises:
        FormatInvalid: it is cut off.
    """
    slots = DEVICE_SLOT.unpack_all(image[DEVICE_SLOTS_OFFSET : front_size(superblock) - DEVICE_SLOT.size])
    bits = superblock.block_bits
    return tuple(WindowDevice(slot.tag.decode("ascii"), slot.blocks << bits) for slot in slots)  # type: ignore[arg-type]
