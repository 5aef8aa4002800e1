"""An image that was converted earlier, opened for the conversion of another one.

Its bootstrap layer is read, its blobs are not, but for single units when somebody asks for bytes of a file.
From it come the tree after any of its layers, the tables of its blobs, and the digests of their chunks.
"""

from __future__ import annotations

import stat
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from builder.bootstrap_layer_reader import (
    PACKED_LIMIT,
    BootstrapLayerInvalid,
    BootstrapParts,
    read_bootstrap_layer,
)
from builder.errors import SourceUnsupported
from builder.layer_record import Record, RecordInvalid, decode, packed_refs, record_limit
from builder.tree_check import check_tree
from builder.tree_undo import apply_undo
from rafs.blob_meta import BlobMeta, parse_blob_meta
from rafs.bootstrap import Bootstrap
from rafs.codes import BLOCK
from rafs.errors import RafsError
from rafs.finished_blob import FinishedBlob
from rafs.inode import Inode, Nid
from rafs.tree import Node, chunk_ref
from rafs.units import decode_unit
from registry_client.manifest import Descriptor, Manifest
from registry_client.source import ImageSource

_EXTENTS_AT_ONCE: Final = 1 << 12


class KnownBlob:
    """A blob that exists: its tables, and its bytes unit by unit. Not thread-safe: the last unit is kept."""

    def __init__(self, blob: FinishedBlob, meta: BlobMeta, source: ImageSource, entry: Descriptor) -> None:
        self.tables = blob
        self.entry = entry
        self.source = source
        self._meta = meta
        self._last: tuple[int, bytes] = -1, b""

    def blob(self) -> FinishedBlob:
        """All about it."""
        return self.tables

    def chunk(self, index: int) -> bytes:
        """The bytes of one chunk, verified; costs a range of one unit.

        Raises:
            RegistryError, RafsError: they cannot be had.
        """
        number = self._meta.unit_of_chunk(index)
        if self._last[0] != number:
            unit = self._meta.unit(number)
            stored = self.source.read_at(self.entry, unit.compressed_offset, unit.compressed_size)
            self._last = number, decode_unit(self._meta, unit, b"".join(stored))
        chunk = self._meta.chunk(index)
        return self._last[1][chunk.unit_offset : chunk.unit_offset + chunk.size]

    def unit_of(self, index: int) -> int:
        """The number of the unit that has one chunk."""
        return self._meta.unit_of_chunk(index)


class KnownImage:
    """One converted image. Its source stays the caller's."""

    def __init__(self, source: ImageSource, manifest: Manifest) -> None:
        """Read the bootstrap layer of *manifest*.

        Raises:
            SourceUnsupported: it is not one that could be shared with: broken, or another tool's.
            RegistryError: of *source*.
        """
        self.manifest = manifest
        parts = _parts(source, manifest)
        self.record: Record | None = None
        if parts.record is not None and len(parts.record) <= record_limit(len(parts.bootstrap)):
            with suppress(RecordInvalid):  # its chunks are as good without
                self.record = decode(parts.record)
        entries = {layer.digest.partition(":")[2]: layer for layer in manifest.layers[:-1]}
        try:
            self._bootstrap = Bootstrap(parts.bootstrap)
            self.chunk_size = self._bootstrap.chunk_size
            self.blobs: dict[str, KnownBlob] = {}  # by id, in the order of the blob table
            for record in self._bootstrap.blobs:
                digests = self._bootstrap.chunk_digests(record.index)
                form = parts.metas[record.id]
                meta = parse_blob_meta(record, form, digests)
                blob = _finished(meta, form[: record.ci_uncompressed_size])
                self.blobs[record.id] = KnownBlob(blob, meta, source, entries[record.id])
        except (RafsError, KeyError) as error:
            raise SourceUnsupported(
                f"image {manifest.digest}: nothing can be shared with it, its tables are incomplete: {error}"
            ) from error

    @property
    def hot(self) -> KnownBlob | None:
        """The blob with copies of what is needed first."""
        if self.record is None or self.record.hot is None:
            return None
        return self.blobs.get(self.record.blobs[self.record.hot])

    def shared_layers(self, diff_ids: Sequence[str]) -> int:
        """How many of the lowest layers of an image with *diff_ids* it has, all told by its record."""
        if self.record is None:
            return 0
        layers = self.record.layers
        count = 0
        for layer, wanted in zip(layers, diff_ids, strict=False):
            if layer.diff_id != wanted:
                break
            if layer.blob is not None and self.record.blobs[layer.blob] not in self.blobs:
                break  # no file uses it any more, so nobody knows its chunks' digests
            count += 1
        if any(layer.undo is None for layer in layers[max(count, 1) :]):
            return 0
        # Whether the next record has room for an undo that this one leaves out, only its size tells.
        return count if all(layer.undo or layer.undo_bytes for layer in layers[1:count]) else 0

    def tree_after(self, count: int, blobs: Sequence[KnownBlob], chunk_size: int) -> Node:
        """The tree after the *count* lowest layers, with references by the keys of `Record.blobs`.

        *blobs* are those that its files may refer to, by key; their chunks have *chunk_size* bytes.

        Raises:
            RecordInvalid: the record does not fit the image, or the bootstrap is broken.
        """
        assert self.record is not None
        try:
            keys = [self.record.blobs.index(blob.id) for blob in self._bootstrap.blobs]
            root = self._tree(keys)
            for layer in reversed(self.record.layers[count:]):
                assert layer.undo is not None
                apply_undo(root, layer.undo)
            # No file has chunks that only the hot blob has.
            known = {key: blob.tables.sizes for key, blob in enumerate(blobs) if key != self.record.hot}
            check_tree(root, chunk_size, known)
        except (KeyError, ValueError, IndexError, RafsError) as error:
            raise RecordInvalid(f"image {self.manifest.digest}: its record does not fit: {error}") from error
        return root

    def _tree(self, keys: Sequence[int]) -> Node:
        bootstrap = self._bootstrap
        originals = self._originals(keys)
        nodes: dict[Nid, Node] = {}

        def refs_of(inode: Inode) -> Iterator[int]:
            # Piece by piece: a terabyte of zeros has four million extents.
            step = self.chunk_size * _EXTENTS_AT_ONCE
            for start in range(0, inode.size, step):
                for place in bootstrap.extents(inode, start, start + step):
                    ref = chunk_ref(keys[place.blob_index], place.chunk_index)
                    yield originals.get(ref, ref)

        def node_of(nid: Nid) -> Node:
            node = nodes.get(nid)
            if node is None:
                inode = bootstrap.inode(nid)
                node = nodes[nid] = Node(inode.mode, inode.uid, inode.gid, inode.mtime, inode.mtime_ns)
                if inode.xattr_size:
                    node.xattrs = bootstrap.xattrs(inode) or None
                if stat.S_ISREG(inode.mode):
                    node.size = inode.size
                    node.chunks = packed_refs(array("Q", refs_of(inode)))
                elif stat.S_ISLNK(inode.mode):
                    node.target = bootstrap.symlink_target(inode)
                elif not node.is_directory:
                    node.rdev = inode.rdev
                else:
                    pending.append(nid)
            elif node.is_directory:
                raise ValueError("a directory with two names")
            return node

        pending: list[Nid] = []
        root = node_of(bootstrap.root_nid)
        while pending:
            nid = pending.pop()
            children = nodes[nid].children
            for name, child, _ in bootstrap.entries(bootstrap.inode(nid)):
                if name not in (b".", b".."):
                    children[name] = node_of(child)
        return root

    def _originals(self, keys: Sequence[int]) -> dict[int, int]:
        """Where the chunks of the hot blob were copied from: references to layers' blobs, by those to it.

        A layer all of whose chunks were copied has no blob here, as no file uses it any more.
        """
        hot = self.hot
        if hot is None or self.record is None or self.record.hot is None:
            return {}
        copies = {hot.tables.digest(index): index for index in range(hot.tables.chunk_count)}
        found: dict[int, int] = {}
        # By ascending keys: of a chunk that several blobs have, only the first is ever copied.
        for key, blob in zip(keys, self.blobs.values(), strict=True):
            if blob is hot:
                continue
            for index in range(blob.tables.chunk_count):
                copy = copies.pop(blob.tables.digest(index), None)
                if copy is not None:
                    found[chunk_ref(self.record.hot, copy)] = chunk_ref(key, index)
        return found


def _finished(meta: BlobMeta, chunk_info: bytes) -> FinishedBlob:
    """The tables of a blob as whoever wrote it had them.

    Raises:
        SourceUnsupported: it is of a kind that is not written here.
    """
    record = meta.record
    found = FinishedBlob(
        id=record.id,
        object_size=record.compressed_size,
        chunk_size=record.chunk_size,
        uncompressed_size=record.uncompressed_size,
        toc_size=record.toc_size,
        toc_digest=record.toc_digest,
        ci_compressor=record.ci_compressor,
        ci_offset=record.ci_offset,
        ci_compressed_size=record.ci_compressed_size,
        chunk_info=chunk_info,
        digests=meta.digests,
        blocks=array("I", (meta.chunk(index).offset // BLOCK for index in range(meta.chunk_count))),
        sizes=array("I", meta.sizes),
    )
    if found.record(record.index) != record:
        raise SourceUnsupported(
            f"blob {record.id} was not written by nopull; sharing chunks with it is not supported, convert "
            "its image again first"
        )
    return found


def _parts(source: ImageSource, manifest: Manifest) -> BootstrapParts:
    """What the bootstrap layer holds."""
    layer = manifest.layers[-1]
    where = f"image {manifest.digest}: its bootstrap layer {layer.digest}"
    if layer.size > PACKED_LIMIT:
        raise SourceUnsupported(f"{where} has {layer.size} bytes, too many")
    try:
        return read_bootstrap_layer(source.read_blob(layer), where)
    except BootstrapLayerInvalid as error:
        raise SourceUnsupported(str(error)) from error
