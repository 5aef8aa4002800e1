"""Open a converted image: pin what its name means, get its small documents, and say where its blobs are.

The order is that of fewest waits: connections are opened while the name is resolved, bootstrap and config
travel together, and an image that is known is taken from the cache. A name with a digest needs no network
then; a tag is asked about, and if the registry is away its last known meaning is used, with a warning.
Nothing is mounted here and no blob is read, except for chunk info that the bootstrap layer lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from builder.bootstrap_layer_reader import PACKED_LIMIT, BootstrapLayerInvalid, read_bootstrap_layer
from builder.image_documents import served_platform
from launch.errors import ImageInvalid
from launch.images import image_cache
from launch.images.asking import Question
from launch.images.chunk_tables import (
    SizedBlobs,
    fetch_digests,
    fetch_form,
    lacks_digests,
    read_tables,
    refuse_unread,
)
from launch.images.converted import find_converted
from launch.images.image_cache import Documents, Known
from launch.images.image_request import ImageRequest, refuse_blob_dir
from launch.images.remote import ImageBlobs
from launch.later import Later
from launch.once import Once
from rafs.blob_meta import BlobMeta
from rafs.blob_record import BlobRecord
from rafs.bootstrap import Bootstrap
from rafs.errors import FormatUnsupported
from registry_client.digest import digest_of
from registry_client.errors import Unreachable
from registry_client.manifest import Descriptor, Manifest
from registry_client.options import RegistryOptions
from registry_client.platform import Platform, host_platform
from registry_client.reference import Reference, Transport
from registry_client.selection import config_bytes
from registry_client.source import ImageSource

if TYPE_CHECKING:
    # Not at run time: `session` imports that package in another thread at the same time; its modules import
    # each other through the package, which Python then gives up half done.
    from chunk_store.remote import BlobSource


@dataclass(frozen=True, slots=True)
class LazyImage:
    """An image that can be mounted. Owns its source: close it when nothing reads blobs any more."""

    reference: Reference  # local paths made absolute
    platform: Platform  # what its config says it is for, else what was asked for
    digest: str  # what the reference named; of the bootstrap for a bare one
    manifest: Manifest | None  # None for a bare bootstrap
    config: bytes  # empty for a bare bootstrap
    config_path: Path | None
    directory: Path | None  # where its documents are kept
    bootstrap: Bootstrap  # what is mounted
    stored: Bootstrap  # what is written; of a tarfs image the chunks were made up for `bootstrap`
    tables: Once[tuple[BlobMeta, ...]]  # those of a kept image are read when they are first asked for
    blob_source: BlobSource
    source: ImageSource | None
    warnings: tuple[str, ...] = ()

    @property
    def blobs(self) -> tuple[BlobMeta, ...]:
        """The chunks of its blobs, in the order of the blob table."""
        return self.tables.get()

    @property
    def pinned(self) -> Reference:
        """What names exactly this image, also later; opened without network once its documents are here."""
        if self.manifest is None:
            return self.reference
        return replace(self.reference, tag=None, digest=self.manifest.digest)

    def close(self) -> None:
        """Give up the connections."""
        if self.source is not None:
            self.source.close()


def open_image(
    reference: Reference,
    options: RegistryOptions,
    root: Path,
    platform: Platform | None = None,
    *,
    blob_dir: Path | None = None,
    question: Question | None = None,
) -> LazyImage:
    """The image *reference* names, for *platform* (default: this machine's); its documents kept below *root*.

    *blob_dir* is for `rafs:` only: where the blobs lie, by default beside the bootstrap. *question* asks for
    the same reference and platform, and its source is taken over; without one it is asked here.

    Raises:
        ReferenceInvalid: *blob_dir* with an image that has its blobs.
        ImageNotConverted: an ordinary image.
        builder.errors.SourceUnsupported: made for another platform than *platform*.
        ImageInvalid, rafs.RafsError: a broken image, or one that uses what is not read.
        and what `registry_client` raises.
    """
    if reference.transport is Transport.RAFS:
        if reference.path is not None:
            reference = replace(reference, path=reference.path.absolute())
        return _open_bare(reference, platform or host_platform(), blob_dir)
    question = question or Question(reference, options, root, platform)
    try:
        refuse_blob_dir(reference, blob_dir)
        return _open(question, root)
    except BaseException:
        question.source.close()
        raise


def open_request(request: ImageRequest, root: Path, question: Question | None = None) -> LazyImage:
    """`open_image` for what *request* says."""
    return open_image(
        request.reference,
        request.options,
        root,
        request.platform,
        blob_dir=request.blob_dir,
        question=question,
    )


def look_into(request: ImageRequest, root: Path) -> tuple[Bootstrap, tuple[BlobMeta, ...]]:
    """The tree and the chunks of what *request* says, its blobs in the order of their table. Without any
    connection as long as the image's documents are here.

    Raises:
        what `open_image` raises.
    """
    digest = request.reference.digest
    kept = None if digest is None else image_cache.load(root, digest)
    if kept is not None:
        bootstrap = Bootstrap(kept.bootstrap)
        return bootstrap, read_tables(bootstrap, kept.metas, kept.digests)
    image = open_request(request, root)
    image.close()
    return image.bootstrap, image.blobs


def _open(question: Question, root: Path) -> LazyImage:
    reference, platform, source = question.reference, question.platform, question.source
    known = image_cache.recall(root, reference, platform)
    if known is None and reference.digest is not None:
        known = Known(reference.digest, reference.digest)
    kept = None if known is None else image_cache.load(root, known.manifest)
    warnings: tuple[str, ...] = ()
    named = None
    if known is not None and kept is not None and reference.digest is None:
        named, warnings = _ask_again(question, known)
        if named is not None and named.digest != known.named:
            kept = None
    if known is None or kept is None:
        named = named or question.answer()
        manifest = find_converted(source, named, platform, reference)
        known = Known(named.digest, manifest.digest)
        kept = image_cache.load(root, manifest.digest)
        documents = kept or _fetch(source, manifest, reference)
    else:
        documents = kept
    served = served_platform(documents.manifest, documents.config, question.wanted, platform)
    bootstrap = Bootstrap(documents.bootstrap)
    blob_source = ImageBlobs(source, documents.manifest, bootstrap.blobs, once=True)
    metas, digests = documents.metas, documents.digests
    tables = Once(lambda: read_tables(bootstrap, metas, digests))
    if kept is not None:
        directory = kept.directory
    else:
        from rafs.check_entries import check_entries

        check_entries(bootstrap, tables.get())
        # Only now, when they have been understood: what is kept can be mounted.
        directory = image_cache.keep(root, documents)
        bootstrap = _kept_where_possible(bootstrap, directory)
    image_cache.remember(root, reference, platform, known)
    return LazyImage(
        reference=reference,
        platform=served,
        digest=known.named,
        manifest=documents.manifest,
        config=documents.config,
        config_path=directory / image_cache.CONFIG,
        directory=directory,
        bootstrap=bootstrap,
        stored=bootstrap,
        tables=tables,
        blob_source=blob_source,
        source=source,
        warnings=warnings,
    )


def _kept_where_possible(bootstrap: Bootstrap, directory: Path) -> Bootstrap:
    """*bootstrap*, read from the file that was just written of it instead of memory."""
    with suppress(OSError, ValueError):
        mapped = image_cache.mapped(directory / image_cache.BOOTSTRAP)
        if memoryview(mapped) == memoryview(bootstrap.raw):
            return Bootstrap(mapped)
    return bootstrap


def _ask_again(question: Question, known: Known) -> tuple[Descriptor | None, tuple[str, ...]]:
    """What a tag names now; None and a warning if nobody answers soon."""
    try:
        named, why = question.answer_soon(), "its registry does not answer"
    except Unreachable as error:
        named, why = None, str(error)
    if named is not None:
        return named, ()
    return None, (f"using the last known meaning of {question.reference.familiar()}, {known.named}: {why}",)


def _fetch(source: ImageSource, manifest: Manifest, reference: Reference) -> Documents:
    """The documents of *manifest*, verified, from where it came from."""
    layer = manifest.layers[-1]
    where = f"the bootstrap layer {layer.digest} of {reference.familiar()}"
    if layer.size > PACKED_LIMIT:
        raise ImageInvalid(f"{where} has {layer.size} bytes, too many")
    config = Later(lambda: config_bytes(source, manifest))
    try:
        parts = read_bootstrap_layer(source.read_blob(layer), where)
    except BootstrapLayerInvalid as error:
        raise ImageInvalid(str(error)) from error
    bootstrap = Bootstrap(parts.bootstrap)
    if bootstrap.is_tarfs:
        raise FormatUnsupported("tarfs in a registry", "such an image is local: use rafs:BOOTSTRAP")
    forms, digests = _tables(bootstrap, ImageBlobs(source, manifest, bootstrap.blobs), parts.whole_metas)
    return Documents(manifest, config.result(), parts.bootstrap, forms, digests)


def _tables(
    bootstrap: Bootstrap, blobs: SizedBlobs, given: Mapping[str, bytes]
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """By blob id: the chunk info of all blobs, and digests the bootstrap lacks.

    *given* has chunk info by the id of the object it is from; the rest is read from *blobs*.
    """

    def later(record: BlobRecord, fetch: Callable[[BlobRecord, SizedBlobs], bytes]) -> Later[bytes]:
        return Later(lambda: fetch(record, blobs))

    refuse_unread(bootstrap)
    records = bootstrap.blobs
    # All asked for before the first is waited for.
    forms = {rec.id: later(rec, fetch_form) for rec in records if rec.meta_object not in given}
    digests = {rec.id: later(rec, fetch_digests) for rec in records if lacks_digests(bootstrap, rec)}
    return (
        {rec.id: forms[rec.id].result() if rec.id in forms else given[rec.meta_object] for rec in records},
        {blob: fetched.result() for blob, fetched in digests.items()},
    )


def _open_bare(reference: Reference, platform: Platform, blob_dir: Path | None) -> LazyImage:
    from launch.images.bare import open_bare
    from rafs.check_entries import check_entries

    path = reference.path
    assert path is not None, "parse_reference gives rafs: a path"
    bare = open_bare(path, blob_dir)
    bootstrap = stored = Bootstrap(bare.bootstrap)
    if stored.is_tarfs:
        from launch.images.tars import read_tars

        bootstrap, blobs = read_tars(stored, bare.blobs)
    else:
        blobs = read_tables(stored, *_tables(stored, bare.blobs, {}))
    check_entries(bootstrap, blobs)
    return LazyImage(
        reference=reference,
        platform=platform,
        digest=digest_of(bare.bootstrap),
        manifest=None,
        config=b"",
        config_path=None,
        directory=None,
        bootstrap=bootstrap,
        stored=stored,
        tables=Once(lambda: blobs),
        blob_source=bare.blobs,
        source=None,
    )
