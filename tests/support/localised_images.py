"""Images with their chunk info and windows, ready to be localised, and the files of their windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rafs.blob_meta import BlobMeta, parse_blob_meta
from rafs.bootstrap import Bootstrap
from rafs.localise import localise
from rafs.localised import WindowDevice, read_devices
from rafs.windows import Window, WindowId, cut_windows
from tests.support.images import Image

Cut = tuple[tuple[Window, ...], ...]


@dataclass(frozen=True)
class Localised:
    """A localised image and where each of its windows is cut from."""

    bootstrap: Bootstrap
    metas: tuple[BlobMeta, ...]
    windows: Cut
    raw: bytes

    @property
    def devices(self) -> tuple[WindowDevice, ...]:
        return read_devices(self.raw)


def metas_of(image: Image, bootstrap: Bootstrap) -> tuple[BlobMeta, ...]:
    """The chunk info of the blobs that *bootstrap* names, in its order."""
    forms = {blob.id: blob.cache_form() for blob in image.blobs}
    return tuple(
        parse_blob_meta(record, forms[record.id], bootstrap.chunk_digests(record.index))
        for record in bootstrap.blobs
    )


def units_as_windows(meta: BlobMeta) -> tuple[Window, ...]:
    """Far smaller windows than ours, so that small trees have many: each unit is one."""
    whole = cut_windows(meta)
    ends = [meta.chunk(meta.unit(i).first_chunk).offset for i in range(1, meta.unit_count)]
    ends.append(meta.uncompressed_size)
    windows, start = [], 0
    for index, end in enumerate(ends):
        unit = meta.unit(index)
        name = WindowId(f"{meta.id[:32]}{index:032x}")
        windows.append(
            Window(name, index, index, 1, unit.first_chunk, unit.chunk_count, start, end - start,
                   unit.compressed_offset, unit.compressed_offset + unit.compressed_size)
        )  # fmt: skip
        start = end
    assert sum(window.length for window in whole) == start
    return tuple(windows)


def localised(image: Image, *, small_windows: bool = False) -> Localised:
    """*image* over its windows; *small_windows*: over its units."""
    bootstrap = Bootstrap(image.bootstrap)
    metas = metas_of(image, bootstrap)
    windows = tuple(map(units_as_windows if small_windows else cut_windows, metas))
    return Localised(bootstrap, metas, windows, localise(bootstrap, metas, windows))


def window_contents(made: Localised, devices: Mapping[str, bytes]) -> dict[str, bytes]:
    """What each window file holds, by id; *devices*: the blobs' uncompressed address spaces by blob id."""
    found: dict[str, bytes] = {}
    for meta, windows in zip(made.metas, made.windows, strict=True):
        space = devices[meta.id]
        for window in windows:
            content = space[window.start : window.start + window.length]
            found[window.id] = content + bytes(window.length - len(content))
    return found
