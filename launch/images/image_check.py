"""Is a converted image sound: every structure and digest between its manifest and, if asked, its last chunk.

Reads from the image's source and never from the cache, because the source is what is judged. What is
wrong with the image becomes a finding; what keeps us from looking (network, credentials, no such image)
is raised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.bootstrap_layer_reader import BootstrapLayerInvalid, BootstrapParts, read_bootstrap_layer
from builder.compare import compare
from builder.discovery import find_ordinary
from builder.image_documents import SourceConfig, served_platform
from builder.layers.merged_image import MergedImage, ordinary_config
from builder.progress import Progress
from launch.errors import ConfigInvalid, ImageInvalid
from launch.images.bare import open_bare
from launch.images.chunk_tables import fetch_digests, fetch_form, lacks_digests, read_digests
from launch.images.contents_check import check_contents
from launch.images.converted import find_converted
from launch.images.document_check import check_blob_layer, check_diff_id, config_differences
from launch.images.image_config import ImageConfig, load_config, parse_config
from launch.images.image_request import refuse_blob_dir
from launch.images.object_digest import ObjectDigest
from launch.images.remote import FileBlobs, ImageBlobs
from launch.images.verdict import Verdict
from rafs.blob_meta import BlobMeta, parse_blob_meta
from rafs.blob_record import BlobRecord
from rafs.bootstrap import Bootstrap
from rafs.check import check_blob_meta, check_bootstrap, check_chunks, check_content
from rafs.counted import counted
from rafs.errors import ChunkInvalid, RafsError
from rafs.findings import Finding
from rafs.records import CHUNK_INFO_HEADER
from rafs.units import decode_unit
from registry_client import open_source
from registry_client.digest import digest_of, encoded
from registry_client.errors import DigestMismatch, RegistryError, Unauthorized
from registry_client.manifest import Descriptor, Manifest
from registry_client.options import RegistryOptions
from registry_client.platform import Platform, host_platform
from registry_client.reference import Reference, Transport
from registry_client.selection import config_bytes
from registry_client.source import ImageSource

# Of one blob; a rotten one would bury everything else.
CHUNK_FINDINGS = 20
READ_BYTES = 4 << 20

Blobs = ImageBlobs | FileBlobs
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class _Ordinary:
    """The image that is compared with; the source is the caller's."""

    source: ImageSource
    manifest: Manifest
    config: SourceConfig


class ImageCheck:
    """One check of one image, to be closed. `deep` judges what `shallow` has read the tables of."""

    def __init__(
        self,
        reference: Reference,
        options: RegistryOptions,
        platform: Platform | None = None,
        blob_dir: Path | None = None,
    ) -> None:
        self._reference = reference
        self._wanted = platform
        self._platform = platform or host_platform()
        self._blob_dir = blob_dir
        self._metas: list[BlobMeta] = []
        self._manifest: Manifest | None = None
        self._listed: dict[str, Descriptor] = {}  # by id: the manifest's blobs that are there
        self._absent: set[str] = set()  # those that are not, or not with their size
        self._bootstrap: Bootstrap | None = None
        self._run_config: ImageConfig | None = None
        self._ordinary: _Ordinary | None = None
        self._source: ImageSource | None = None
        self.verdict = Verdict(reference.familiar())
        self._blobs: Blobs  # known with the bootstrap
        refuse_blob_dir(reference, blob_dir)
        if reference.transport is not Transport.RAFS:
            self._source = open_source(reference, options)

    def close(self) -> None:
        """Give up the connections."""
        if self._source is not None:
            self._source.close()

    def shallow(self) -> None:
        """Judge everything but the chunks' own bytes: documents, tables, and that each blob is there.

        Raises:
            ImageNotConverted: there is nothing of ours to judge.
            builder.errors.SourceUnsupported: it is for another platform than was asked for.
            what `registry_client` raises when it cannot look.
        """
        parts = self._open()
        if parts is None:
            return
        found = check_bootstrap(parts.bootstrap)
        self.verdict.findings += found
        if any(finding.fatal for finding in found):
            return
        try:
            bootstrap = Bootstrap(parts.bootstrap)
        except RafsError as error:
            self._add("bootstrap", "bootstrap", error)
            return
        self._bootstrap = bootstrap
        if self._source is not None and self._manifest is not None:
            self._blobs = ImageBlobs(self._source, self._manifest, bootstrap.blobs)
        self.verdict.inodes = bootstrap.inode_count
        self.verdict.blobs = len(bootstrap.blobs)
        if bootstrap.is_tarfs:
            self._judge_tars(bootstrap)
            return
        for record in bootstrap.blobs:
            self._judge_blob(bootstrap, record, parts.metas.get(record.meta_object))
        if len(self._metas) == len(bootstrap.blobs):
            self.verdict.findings += check_chunks(parts.bootstrap, self._metas)

    @property
    def bytes_to_read(self) -> int:
        """How many bytes `deep` reads."""
        if self._source is None:
            return sum(_chunks_end(meta) for meta in self._metas)
        used = sum(self._blobs.object_size(meta.id) for meta in self._metas)
        return used + sum(layer.size for layer in self._without_chunks())

    def deep(self, advance: Advance) -> None:
        """Read every blob once, and verify its chunks and its digest, which says of the bytes beside them.

        *advance* is told how many bytes were read. The ids of a bare bootstrap's blobs need not be digests,
        so of those the chunks are verified only.
        """
        for meta in self._metas:
            try:
                self._read_blob(meta, ObjectDigest(self._blobs, meta.id, advance))
            except RegistryError as error:
                self._add("blob", f"blob {meta.id}", _about_the_image(error))
        if self._source is None:
            return
        for layer in self._without_chunks():
            try:
                for piece in self._source.read_blob(layer):
                    advance(len(piece))
            except RegistryError as error:
                rule = "blob-digest" if isinstance(error, DigestMismatch) else "blob"
                self._add(rule, f"blob {encoded(layer.digest)}", _about_the_image(error))

    def find_ordinary(self, source: ImageSource) -> None:
        """Find the ordinary image *source* names, for the same platform: what `compare` compares with.

        Best done first, before much is read for a comparison with something that is not there.

        Raises:
            builder.errors.SourceUnsupported: it is none.
            what `registry_client` raises when it cannot be had.
        """
        manifest = find_ordinary(source, self._platform)
        self._ordinary = _Ordinary(source, manifest, ordinary_config(source, manifest))

    def compare(self, progress: Progress) -> None:
        """Compare every path and what a container would run with the image that was found; after `deep`.

        An image that cannot be opened is not compared: that is a finding already.

        Raises:
            builder.errors.BuildError: the ordinary image is broken.
            what `registry_client` raises when it cannot be had.
        """
        found = self._ordinary
        assert found is not None, "find_ordinary comes first"
        if self._bootstrap is None:
            return
        manifest = found.manifest
        self._compare_configs(found.config)
        digesters = sorted({meta.digester for meta in self._metas})
        ordinary = MergedImage(
            found.source, manifest, found.config, self._bootstrap.chunk_size, digesters, progress
        )
        progress.begin("compare", None)
        compared = compare(
            self._bootstrap, self._metas, ordinary, lambda count: progress.advance("compare", count)
        )
        progress.finish("compare", counted(compared.paths, "path"))
        self.verdict.dropped_xattrs = dict(ordinary.dropped)
        self.verdict.against = manifest.digest
        self.verdict.findings += compared.findings
        self.verdict.paths_compared = compared.paths
        self.verdict.files = compared.files
        self.verdict.files_compared = compared.files_compared
        self.verdict.bytes_compared = compared.bytes_compared

    def _compare_configs(self, ordinary: SourceConfig) -> None:
        if self._run_config is None:
            return  # a bare bootstrap has none, and a broken one is a finding already
        try:
            wanted = parse_config(ordinary.document)
        except ConfigInvalid as error:
            self._add("against-config", "config", f"of the ordinary image: {error}")
            return
        self.verdict.findings += config_differences(self._run_config, wanted)

    def _open(self) -> BootstrapParts | None:
        if self._source is None:
            path = self._reference.path
            assert path is not None, "parse_reference gives rafs: a path"
            bare = open_bare(path, self._blob_dir)
            self._blobs = bare.blobs
            self.verdict.digest = digest_of(bare.bootstrap)
            return BootstrapParts(bare.bootstrap, {})
        named = self._source.resolve()
        self._manifest = manifest = find_converted(self._source, named, self._platform, self._reference)
        self.verdict.digest = manifest.digest
        diff_ids = self._judge_config(self._source, manifest)
        self._judge_layers(self._source, manifest)
        for layer, said in zip(manifest.layers[:-1], diff_ids, strict=False):
            self.verdict.findings += check_diff_id(layer, said, layer.digest)
        layer = manifest.layers[-1]
        unpacked = hashlib.sha256()
        try:
            parts = read_bootstrap_layer(
                self._source.read_blob(layer), f"the bootstrap layer {layer.digest}", unpacked.update
            )
        except (RegistryError, BootstrapLayerInvalid) as error:
            self._add("bootstrap-layer", f"layer {layer.digest}", _about_the_image(error))
            return None
        if diff_ids:
            self.verdict.findings += check_diff_id(layer, diff_ids[-1], f"sha256:{unpacked.hexdigest()}")
        return parts

    def _judge_config(self, source: ImageSource, manifest: Manifest) -> Sequence[object]:
        """The diff ids in the config, one of each layer; none if they are not that."""
        where = f"config {manifest.config.digest}"
        try:
            raw = config_bytes(source, manifest)
            served_platform(manifest, raw, self._wanted, self._platform)
            document = load_config(raw)
            self._run_config = parse_config(document)
        except (RegistryError, ConfigInvalid) as error:
            self._add("config", where, _about_the_image(error))
            return ()
        rootfs = document.get("rootfs")
        ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        if not isinstance(ids, list) or len(ids) != len(manifest.layers):
            count = len(ids) if isinstance(ids, list) else "no"
            self._add("config", where, f"{count} diff_ids for {len(manifest.layers)} layers")
            return ()
        return ids

    def _judge_layers(self, source: ImageSource, manifest: Manifest) -> None:
        """Judge every blob the manifest lists, also those no file uses: who copies the image copies all."""
        for blob_id, layer in {encoded(layer.digest): layer for layer in manifest.layers[:-1]}.items():
            self.verdict.findings += check_blob_layer(layer)
            try:
                # The last byte: a source checks the whole size against the manifest to find it.
                for _ in source.read_at(layer, layer.size - 1, 1) if layer.size else source.read_blob(layer):
                    pass
                self._listed[blob_id] = layer
            except RegistryError as error:
                self._add("blob", f"blob {blob_id}", _about_the_image(error))
                self._absent.add(blob_id)

    def _judge_blob(self, bootstrap: Bootstrap, record: BlobRecord, given: bytes | None) -> None:
        where = f"blob {record.id}"
        if record.id in self._absent:
            return
        if record.is_unplaced:
            # Not among the bootstrap's: with any of those the kernel is not given it, and it looks at no row.
            message = "its chunk info is said to lie where its chunks begin: other readers refuse the image"
            self._add("blob-ci-place", where, message)
        try:
            if record.id not in self._listed:
                for _ in self._blobs.read_at(record.id, self._blobs.object_size(record.id) - 1, 1):
                    pass
            own = fetch_form(record, self._blobs)
            fetched = fetch_digests(record, self._blobs) if lacks_digests(bootstrap, record) else None
        except (RegistryError, ImageInvalid, RafsError) as error:
            self._add("blob", where, _about_the_image(error))
            return
        if given is not None and given != own:
            message = "the bootstrap layer has other chunk info than the blob itself"
            if len(given) == CHUNK_INFO_HEADER.size:
                message = (
                    "the bootstrap layer has its chunk info without the array: nydusd cannot read the blob"
                )
            self._add("meta-differs", where, message)
        try:
            digests, unknown = read_digests(bootstrap, record, own, fetched)
        except RafsError as error:
            self._add("chunk-digests", where, error)
            return
        found = check_blob_meta(record, own, digests)
        self.verdict.findings += found
        if not found:
            self._take(parse_blob_meta(record, own, digests, unknown))
            try:
                self.verdict.findings += check_contents(bootstrap, record, own, self._blobs)
            except RegistryError as error:
                self._add("blob", where, _about_the_image(error))

    def _judge_tars(self, bootstrap: Bootstrap) -> None:
        from launch.images.tars import read_tar
        from rafs.tarfs import tar_pieces, with_chunks

        metas: list[BlobMeta] = []
        try:
            wanted = tar_pieces(bootstrap)
            for record in bootstrap.blobs:
                if record.id in self._absent:
                    continue
                try:
                    metas.append(read_tar(record, self._blobs, wanted[record.index]))
                except (RegistryError, ImageInvalid, RafsError) as error:
                    self._add("blob", f"blob {record.id}", _about_the_image(error))
            if len(metas) < len(bootstrap.blobs):
                return  # files cannot be led to chunks
            self._bootstrap = with_chunks(bootstrap, metas)
        except RafsError as error:
            self._add("bootstrap", "bootstrap", error)
            return
        for meta in metas:
            self._take(meta)

    def _take(self, meta: BlobMeta) -> None:
        self._metas.append(meta)
        self.verdict.chunks += meta.chunk_count

    def _without_chunks(self) -> list[Descriptor]:
        """The manifest's blobs that are there, but of whose chunks nothing is known."""
        known = {meta.id for meta in self._metas}
        return [layer for blob_id, layer in self._listed.items() if blob_id not in known]

    def _read_blob(self, meta: BlobMeta, whole: ObjectDigest) -> None:
        where, wrong = f"blob {meta.id}", 0
        for index, stored in _units(meta, whole):
            unit = meta.unit(index)
            try:
                content = decode_unit(meta, unit, stored)
                self.verdict.chunks_verified += unit.chunk_count
                found = check_content(meta, unit.first_chunk, content)[: CHUNK_FINDINGS - wrong]
                self.verdict.findings += found
                wrong += len(found)
            except ChunkInvalid as error:
                self._add("chunk", where, error)
                wrong += 1
            if wrong == CHUNK_FINDINGS:
                self._add("chunk", where, "more of it was not looked at")
                return
        if self._source is not None and (digest := whole.finish()) != meta.id:
            self._add("blob-digest", where, f"its bytes have the sha256 {digest}")

    def _add(self, rule: str, where: str, why: Exception | str) -> None:
        self.verdict.findings.append(Finding(rule, where, str(why)))


def _units(meta: BlobMeta, whole: ObjectDigest) -> Iterator[tuple[int, memoryview]]:
    """Units of a blob with their stored bytes, read in large steps."""
    first = 0
    while first < meta.unit_count:
        start, after = meta.unit(first).compressed_offset, first
        end = start
        while after < meta.unit_count and (after == first or end - start < READ_BYTES):
            unit = meta.unit(after)
            end = max(end, unit.compressed_offset + unit.compressed_size)
            after += 1
        stored = memoryview(whole.read(start, end - start))
        for index in range(first, after):
            unit = meta.unit(index)
            offset = unit.compressed_offset - start
            yield index, stored[offset : offset + unit.compressed_size]
        first = after


def _chunks_end(meta: BlobMeta) -> int:
    last = meta.unit(meta.unit_count - 1)
    return last.compressed_offset + last.compressed_size


def _about_the_image(error: Exception) -> Exception:
    """*error* if it says something about the image; raised if only about our way to it."""
    if isinstance(error, Unauthorized) or (isinstance(error, RegistryError) and error.temporary):
        raise error
    return error
