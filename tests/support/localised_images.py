"""Images with their chunk info and windows, ready to be localised, and the files of their windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rafs.blob_meta import BlobMeta, parse_blob_meta
from rafs.bootstrap import Bootstrap
from rafs.localise import localise
from rafs.localised import read_devices
from rafs.window_slots import WindowDevice
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


def runs_as_windows(meta: BlobMeta, chunks: int) -> tuple[Window, ...]:
    """Far smaller windows than ours, so that small trees have many: runs of *chunks* chunks."""
    windows: list[Window] = []
    for first in range(0, meta.chunk_count, chunks):
        end = min(first + chunks, meta.chunk_count)
        start = meta.chunk(first).offset
        behind = meta.chunk(end).offset if end < meta.chunk_count else meta.uncompressed_size
        name = WindowId(f"{meta.id[:32]}{first:032x}")
        windows.append(Window(name, len(windows), 0, 0, first, end - first, start, behind - start, 0, 0))
    return tuple(windows)


def localised(image: Image, *, run: int | None = None) -> Localised:
    """*image* over its windows; over runs of *run* chunks if that is given."""
    bootstrap = Bootstrap(image.bootstrap)
    metas = metas_of(image, bootstrap)
    windows = tuple(cut_windows(meta) if run is None else runs_as_windows(meta, run) for meta in metas)
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
