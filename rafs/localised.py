"""The fixed part of a localised image: its superblock, and the device slots that name its windows.

What `localise` makes begins with it, and whoever mounts reads it: a kept image is checked and its windows are
known without the bootstrap it came from. The tree behind it is the kernel's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from blake3 import blake3

from .codes import DEVICE_SLOTS_OFFSET, FEATURE_INCOMPAT, SUPERBLOCK_OFFSET
from .errors import FormatInvalid, ImageTooLarge
from .records import DEVICE_SLOT, SUPERBLOCK, Superblock
from .window_slots import WindowDevice, read_superblock, window_slots

# Part of the name under which localised images are kept: raised when `localise` writes other bytes, when
# windows are cut elsewhere, and when `check` refuses more, so that nothing made by older rules is mounted.
LOCALISED_VERSION: Final = 3

MAX_WINDOWS: Final = 65_534  # devices are counted in 16 bits, and the last one is the mount's own file

_UUID_OFFSET: Final = SUPERBLOCK_OFFSET + 48
_UUID_SIZE: Final = 16
_MAX_BLOCKS: Final = 1 << 32


def pack_front(
    superblock: Superblock, first: int, blocks: int, devices: Sequence[WindowDevice]
) -> tuple[Callable[[bytes], bytes], int]:
    """(what puts the fixed part before *blocks* blocks of a bootstrap, by how many blocks they move).

    They lay at block *first* of the bootstrap, whose *superblock* gives times, counts, the root and the size
    of a block. Behind the windows comes a slot without blocks and name: for a file by which each mount is
    known.

    Raises:
        ImageTooLarge: more windows than the kernel can count devices, or more blocks in them.
    """
    if len(devices) > MAX_WINDOWS:
        raise ImageTooLarge(
            f"the image has {len(devices)} windows, a kernel mount can have {MAX_WINDOWS}; use fuse"
        )
    block = 1 << superblock.block_bits
    front = -(-(DEVICE_SLOTS_OFFSET + DEVICE_SLOT.size * (len(devices) + 1)) // block)
    # Behind the image's own last block: an address of it never falls into a device, and a mount for which the
    # devices are forgotten reads beyond the end, an error, instead of other blocks.
    place = front + blocks
    slots = bytearray()
    pack = DEVICE_SLOT.struct.pack
    for device in devices:
        count = device.length // block
        slots += pack(device.id.encode("ascii"), count, place, b"")
        place += count
        if place >= _MAX_BLOCKS:
            raise ImageTooLarge(f"the windows have more than {_MAX_BLOCKS} blocks, these have 32-bit numbers")
    slots += pack(b"", 0, place, b"")
    shift = front - first
    fixed = SUPERBLOCK.pack(
        superblock._replace(
            feature_compat=0,
            feature_incompat=FEATURE_INCOMPAT,
            blocks=front + blocks,
            meta_block=superblock.meta_block + shift,
            device_count=len(devices) + 1,
            uuid=b"",
        )
    )

    def join(rest: bytes) -> bytes:
        image = bytearray(SUPERBLOCK_OFFSET) + fixed
        image += bytes(DEVICE_SLOTS_OFFSET - len(image)) + slots
        image += bytes(front * block - len(image)) + rest
        image[_UUID_OFFSET : _UUID_OFFSET + _UUID_SIZE] = _seal(image)
        return bytes(image)

    return join, shift


def read_devices(image: bytes) -> tuple[WindowDevice, ...]:
    """The windows that a localised *image* is to be mounted over, in the order of its devices.

    Raises:
        FormatInvalid: *image* is not exactly what `localise` made.
    """
    superblock = read_superblock(image)
    if superblock.uuid != _seal(image):
        raise FormatInvalid("the localised image is damaged: the sum in its superblock is another")
    return window_slots(image, superblock)


def _seal(image: bytes | bytearray) -> bytes:
    """The UUID: a sum of all other bytes, which also gives each image its own file system id."""
    digest = blake3(image[:_UUID_OFFSET])
    digest.update(memoryview(image)[_UUID_OFFSET + _UUID_SIZE :])
    return digest.digest(length=_UUID_SIZE)
