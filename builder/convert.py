"""An image, or an index of images, converted from a source to a destination.

An image that is converted already is copied as it is. Blobs and inner manifests are put before what names
them, the tag last. Not here: one image's own conversion (`image_conversion`), and the command line
(`convert_verb`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from builder.convert_options import ConvertOptions
from builder.copying import bring_image
from builder.discovery import PLATFORM_FEATURE, Spelling, find_ordinary, is_marked, marked
from builder.errors import SourceUnsupported
from builder.image_conversion import Work, convert_image
from builder.image_documents import (
    NYDUS_SOURCE,
    converted_index,
    is_converted,
    read_config,
    served_platform,
)
from builder.progress import Progress, SilentProgress
from builder.report import ConvertReport, ImageReport
from builder.reuse import Dictionary
from builder.shelf import Shelf
from registry_client.manifest import Descriptor, Index, Manifest, MediaType
from registry_client.media_type import INDEXES, MANIFESTS
from registry_client.platform import Platform, host_platform, is_attestation, normalise
from registry_client.selection import config_bytes
from registry_client.source import ImageDestination, ImageSource

_INDEX_DEPTH: Final = 4


def convert(
    source: ImageSource,
    destination: ImageDestination,
    *,
    tag: str | None,
    options: ConvertOptions,
    progress: Progress | None = None,
    shelf: Shelf | None = None,
    dictionaries: Sequence[Dictionary] = (),
    source_repository: str | None = None,
) -> ConvertReport:
    """Convert what *source* names and publish it in *destination* under *tag*.

    Layers that an image on *shelf* has, which must be of the destination's repository, are neither read nor
    written; the result is the same. Chunks that images of *dictionaries* have are not stored again; then
    *shelf* is not looked at. Both stay the caller's. *source_repository* is that of *source* if it can be
    mounted from.

    Raises:
        BuildError, RegistryError, RafsError: nothing was put under *tag* then.
    """
    began = time.monotonic()
    work = Work(
        source=source,
        destination=destination,
        options=options,
        progress=progress or SilentProgress(),
        shelf=shelf,
        dictionaries=tuple(dictionaries),
        source_repository=source_repository,
    )
    skipped = superseded = 0
    named = source.resolve()
    if options.every_platform and isinstance(index := source.manifest(named), Index):
        descriptor, images, skipped, superseded = _convert_index(work, index, tag)
    else:
        manifest = find_ordinary(source, options.platform or host_platform(), named)
        config = None
        if options.platform is not None:
            config = config_bytes(source, manifest)
            served_platform(manifest, config, options.platform, options.platform)
        if options.spelling is None:
            image = _convert_or_copy(work, manifest, config, platform="", tag=tag)
            descriptor, images = image.descriptor(), [image]
        else:
            image, entries = _convert_beside(work, manifest, config, None, options.spelling)
            raw = converted_index(entries, {})
            put = destination.put_manifest(raw, MediaType.OCI_INDEX, tag=tag)
            descriptor, images = put, [image]
    return ConvertReport(
        digest=descriptor.digest,
        media_type=descriptor.media_type,
        images=tuple(images),
        skipped=skipped,
        superseded=superseded,
        seconds=round(time.monotonic() - began, 3),
    )


def _convert_index(
    work: Work, index: Index, tag: str | None
) -> tuple[Descriptor, list[ImageReport], int, int]:
    """What was put, the images in it, and how many entries of *index* are no images, or are converted ones of
    platforms that have an ordinary one.
    """
    images: list[ImageReport] = []
    entries: list[Descriptor] = []
    leaves = list(_leaves(work.source, index, _INDEX_DEPTH))
    found = [entry for entry in leaves if entry.media_type in MANIFESTS and not is_attestation(entry)]
    ordinary = {_unmarked(entry.platform) for entry in found if not is_marked(entry)}
    superseded = 0
    for entry in found:
        # One that says no platform may be for any.
        if is_marked(entry) and not ordinary.isdisjoint((None, _unmarked(entry.platform))):
            superseded += 1
            continue
        manifest = work.source.manifest(entry)
        assert isinstance(manifest, Manifest)
        if work.options.spelling is None:
            image = _convert_or_copy(work, manifest, None, platform=str(entry.platform or ""), tag=None)
            converted = replace(image.descriptor(), platform=entry.platform)
            entries.append(entry if image.already_converted and is_marked(entry) else converted)
        else:
            image, both = _convert_beside(work, manifest, None, entry.platform, work.options.spelling)
            entries += both
        images.append(image)
    if not images:
        raise SourceUnsupported(f"index {index.digest}: none of its {len(leaves)} entries is an image")
    raw = converted_index(entries, index.annotations)
    put = work.destination.put_manifest(raw, MediaType.OCI_INDEX, tag=tag)
    return put, images, len(leaves) - len(found), superseded


def _convert_beside(
    work: Work, manifest: Manifest, config: bytes | None, platform: Platform | None, spelling: Spelling
) -> tuple[ImageReport, list[Descriptor]]:
    """Convert *manifest* and bring it along: the entries of both, the ordinary one first.

    *config* and *platform* are None where they are not known yet.
    """
    if is_converted(manifest):
        raise SourceUnsupported(
            f"image {manifest.digest} is converted already; an index of both needs the ordinary one as SRC"
        )
    _bring(work, manifest, None)
    if config is None:
        config = config_bytes(work.source, manifest)
    platform = platform or _platform_of(manifest, config)
    image = convert_image(work, manifest, config, platform=str(platform), tag=None)
    ordinary = Descriptor(manifest.media_type, manifest.digest, len(manifest.raw), platform=platform)
    source = {NYDUS_SOURCE: manifest.digest}
    return image, [ordinary, replace(marked(image.descriptor(), platform, spelling), annotations=source)]


def _unmarked(platform: Platform | None) -> Platform | None:
    """*platform* of an entry as that of the ordinary image beside it says it."""
    if platform is None:
        return None
    features = tuple(feature for feature in platform.os_features if feature != PLATFORM_FEATURE)
    return replace(normalise(platform), os_features=features)


def _platform_of(manifest: Manifest, config: bytes) -> Platform:
    found = normalise(read_config(manifest, config).platform)
    return found if found.architecture else host_platform()


def _bring(work: Work, manifest: Manifest, tag: str | None) -> None:
    bring_image(
        work.source,
        work.source_repository,
        manifest,
        work.destination,
        tag=tag,
        directory=work.options.work_dir,
        progress=work.progress,
    )


def _leaves(source: ImageSource, index: Index, depth: int) -> Iterator[Descriptor]:
    for entry in index.manifests:
        if entry.media_type not in INDEXES:
            yield entry
            continue
        if not depth:
            raise SourceUnsupported(f"index {index.digest}: more than {_INDEX_DEPTH} levels deep in others")
        inner = source.manifest(entry)
        assert isinstance(inner, Index)
        yield from _leaves(source, inner, depth - 1)


def _convert_or_copy(
    work: Work, manifest: Manifest, config: bytes | None, *, platform: str, tag: str | None
) -> ImageReport:
    if not is_converted(manifest):
        if config is None:
            config = config_bytes(work.source, manifest)
        return convert_image(work, manifest, config, platform=platform, tag=tag)
    if work.options.referrer:
        raise SourceUnsupported(
            f"image {manifest.digest} is converted already; a referrer needs the ordinary one as SRC"
        )
    _bring(work, manifest, tag)
    return ImageReport(
        platform=platform,
        source_digest=manifest.digest,
        media_type=manifest.media_type,
        digest=manifest.digest,
        manifest_bytes=len(manifest.raw),
        already_converted=True,
        layers=(),
        bootstrap_bytes=0,
        bootstrap_layer_bytes=manifest.layers[-1].size,
        hot_files=0,
        hot_blob_bytes=0,
        chunks=0,
        chunks_shared=0,
        dropped_xattrs={},
        not_prefetched=(),
        seconds={},
    )
