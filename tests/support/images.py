"""Whole images in memory, made by our own writers from the small language of `trees`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rafs.blob_writer import BlobWriter, pack_unit
from rafs.bootstrap_writer import write_bootstrap
from rafs.digests import chunk_digest
from rafs.finished_blob import FinishedBlob
from rafs.tree import Node, chunk_ref
from rafs.unit_cutter import UnitCutter
from tests.support.trees import Entry, node_tree, paths


@dataclass(frozen=True, slots=True)
class Image:
    """An image in memory."""

    bootstrap: bytes
    packed: tuple[FinishedBlob, ...]  # one for each `Entry.blob`, empty ones too
    blobs: tuple[FinishedBlob, ...]  # those the bootstrap names, in its order
    objects: Mapping[str, bytes]  # blob objects by id
    devices: Mapping[str, bytes]  # uncompressed address spaces by id: what the kernel takes as `device=`
    root: Node


class _Blob:
    """Packs one blob; a chunk that it has already is not stored again."""

    def __init__(self, chunk_size: int, batch_size: int) -> None:
        self._writer = BlobWriter(chunk_size=chunk_size)
        self._cutter = UnitCutter(batch_size)
        self._chunk_size = chunk_size
        self._known: dict[bytes, int] = {}
        self._pending: list[bytes] = []
        self._object = bytearray()
        self._device = bytearray()

    def store(self, content: bytes) -> list[int]:
        """Indices of the chunks of *content*."""
        return [
            self._store_chunk(content[start : start + self._chunk_size])
            for start in range(0, len(content), self._chunk_size)
        ]

    def _store_chunk(self, chunk: bytes) -> int:
        digest = chunk_digest(chunk)
        if digest not in self._known:
            self._known[digest] = len(self._known)
            if self._cutter.begins_unit(len(chunk), digest):
                self._flush()
            self._pending.append(chunk)
            self._device += chunk + bytes(-len(chunk) % 4096)
        return self._known[digest]

    def _flush(self) -> None:
        if self._pending:
            self._object += self._writer.add_unit(pack_unit(self._pending))
            self._pending.clear()

    def finish(self) -> tuple[FinishedBlob, bytes, bytes]:
        self._flush()
        tail, blob = self._writer.finish()
        return blob, bytes(self._object + tail), bytes(self._device)


def image_of(
    root: Entry, *, chunk_size: int = 64 << 10, batch_size: int = 256 << 10, prefetch: Iterable[bytes] = ()
) -> Image:
    """The whole image of *root*; *prefetch* are absolute paths for the prefetch table."""
    packers = [_Blob(chunk_size, batch_size) for _ in range(1 + max(entry.blob for _, entry in paths(root)))]

    def store(entry: Entry) -> tuple[int, ...]:
        return tuple(chunk_ref(entry.blob, index) for index in packers[entry.blob].store(entry.content))

    root_node = node_tree(root, store)
    finished = [packer.finish() for packer in packers]
    packed = tuple(blob for blob, _, _ in finished)
    nodes = [_node_at(root_node, path) for path in prefetch]
    return Image(
        bootstrap=write_bootstrap(root_node, packed, chunk_size=chunk_size, prefetch=nodes),
        packed=packed,
        blobs=tuple({blob.id: blob for blob in packed if blob.chunk_count}.values()),
        objects={blob.id: raw for blob, raw, _ in finished if blob.chunk_count},
        devices={blob.id: device for blob, _, device in finished if blob.chunk_count},
        root=root_node,
    )


def _node_at(root: Node, path: bytes) -> Node:
    node = root
    for name in path.split(b"/"):
        node = node.children[name] if name else node
    return node
