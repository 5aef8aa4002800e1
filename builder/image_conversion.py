"""One image of one platform, converted: layers come in, are merged and packed; blobs and documents go out.

Three things happen at once: the next layers are fetched and unpacked, the current one is packed on all
cores, finished blobs are pushed. The manifest is put last, so a failure at any point publishes nothing.
Scratch space needed is the unpacked image and the blobs that are being pushed. Not here: indexes and tags
(`convert`).
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.bootstrap_layer import write_bootstrap_layer
from builder.crew import Crew
from builder.hot_list import find_hot_files
from builder.image_documents import (
    SourceConfig,
    blob_descriptor,
    bootstrap_descriptor,
    check_layers,
    converted_config,
    converted_manifest,
    read_config,
)
from builder.layer_blob import ImagePacker, LayerBlob, PackOptions
from builder.overlay import empty_tree, merge_layer
from builder.progress import Progress, megabytes
from builder.report import ImageReport, LayerReport
from builder.scratch import ScratchFile
from builder.spool import spool_layer
from builder.tar_index import read_entries
from rafs.bootstrap_writer import write_bootstrap
from registry_client.digest import Digest, digest_of
from registry_client.manifest import Descriptor, Manifest
from registry_client.source import ImageDestination, ImageSource

_FETCHERS: Final = 2  # one unpacks while the other waits for the network
_PUSHERS: Final = 2

_Clock = dict[str, float]


@dataclass(frozen=True, slots=True)
class Work:
    """What all parts of one conversion share."""

    source: ImageSource
    destination: ImageDestination
    pack: PackOptions
    jobs: int
    directory: Path | None  # for scratch files; None: where the system keeps them
    progress: Progress


def convert_image(work: Work, manifest: Manifest, *, platform: str, tag: str | None) -> ImageReport:
    """Publish what *manifest* is converted to under *tag* (None: by digest only), and say what it took.

    *platform* names the image in the report and in progress; empty: what its config says.

    Raises:
        SourceUnsupported: layers or config of a kind that is not converted.
        LayerInvalid, LayerUnsupported, SpoolFull, SpoolFailed.
        rafs.errors.ImageTooLarge, rafs.tree.PlanInvalid: the image does not fit into the format.
        RegistryError: of the source or the destination.
    """
    check_layers(manifest)
    config = read_config(manifest, b"".join(work.source.read_blob(manifest.config)))
    with ExitStack() as owned, Crew() as crew:
        return _Conversion(work, manifest, config, crew, owned).run(platform or str(config.platform), tag)


class _Conversion:
    """The state of one run; used once, by one thread."""

    def __init__(
        self, work: Work, manifest: Manifest, config: SourceConfig, crew: Crew, owned: ExitStack
    ) -> None:
        self._work = work
        self._manifest = manifest
        self._config = config
        self._crew = crew
        self._owned = owned
        self._fetchers = crew.pool(_FETCHERS, "fetch")
        self._pushers = crew.pool(_PUSHERS, "push")
        self._packer = ImagePacker(
            work.pack, crew.pool(work.jobs, "pack"), jobs=work.jobs, directory=work.directory
        )
        self._root = empty_tree()
        self._dropped: Counter[str] = Counter()
        self._pushes: list[Future[None]] = []
        self._seconds: _Clock = dict.fromkeys(("fetching", "merging", "packing", "writing", "pushing"), 0.0)

    def run(self, platform: str, tag: str | None) -> ImageReport:
        spools: dict[Digest, Future[ScratchFile]] = {}
        for number, layer in enumerate(self._manifest.layers):
            if layer.digest not in spools:
                spools[layer.digest] = self._crew.submit(self._fetchers, self._fetch, number)
        reports = [self._layer(number, spools) for number in range(len(self._manifest.layers))]
        blobs = [made.blob for made in self._packer.blobs]
        with _timed(self._seconds, "writing"):
            hot = find_hot_files(self._root, self._config.document, self._packer.read)
            bootstrap = write_bootstrap(
                self._root, blobs, chunk_size=self._work.pack.chunk_size, prefetch=hot
            )
            last = write_bootstrap_layer(bootstrap, blobs, self._work.directory)
            self._owned.callback(last.content.close)
        with _timed(self._seconds, "pushing"):
            for push in self._pushes:
                push.result()
            entry = bootstrap_descriptor(self._manifest, last.digest, last.content.size)
            self._work.destination.put_blob(entry, last.content.open)
            layers = [*(blob_descriptor(blob.id, blob.object_size) for blob in blobs), entry]
            diff_ids = [*(f"sha256:{blob.id}" for blob in blobs), last.diff_id]
            put = self._publish(layers, diff_ids, [report.blob is not None for report in reports], tag)
        return ImageReport(
            platform=platform,
            source_digest=self._manifest.digest,
            media_type=put.media_type,
            digest=put.digest,
            manifest_bytes=put.size,
            already_converted=False,
            layers=tuple(reports),
            bootstrap_bytes=len(bootstrap),
            bootstrap_layer_bytes=last.content.size,
            hot_files=len(hot),
            chunks=sum(blob.chunk_count for blob in blobs),
            chunks_shared=self._packer.chunks_shared,
            dropped_xattrs=dict(self._dropped),
            seconds={phase: round(spent, 3) for phase, spent in self._seconds.items()},
        )

    def _layer(self, number: int, spools: dict[Digest, Future[ScratchFile]]) -> LayerReport:
        layer = self._manifest.layers[number]
        with _timed(self._seconds, "fetching"):
            spool = spools[layer.digest].result()
        step = f"pack layer {self._of(number)}"
        with _timed(self._seconds, "merging"):
            entries = list(read_entries(spool, layer.digest))
            files = merge_layer(self._root, entries, layer=layer.digest, dropped=self._dropped)
        self._work.progress.begin(step, sum(file.node.size for file in files if file.node is not None))
        with _timed(self._seconds, "packing"):
            made = self._packer.pack(files, spool, self._proceed(step))
        if made is None:
            self._work.progress.finish(step, "nothing new")
            return LayerReport(layer.digest, layer.size, spool.size, len(files), None, 0)
        self._owned.callback(made.content.close)
        self._pushes.append(self._crew.submit(self._pushers, self._push, made, number))
        self._work.progress.finish(step, f"blob of {megabytes(made.content.size)}")
        blob = f"sha256:{made.blob.id}"
        return LayerReport(layer.digest, layer.size, spool.size, len(files), blob, made.content.size)

    def _fetch(self, number: int) -> ScratchFile:
        layer = self._manifest.layers[number]
        step = f"fetch layer {self._of(number)}"
        self._work.progress.begin(step, layer.size)
        advance = self._proceed(step)

        def counted() -> Iterator[bytes]:
            for piece in self._work.source.read_blob(layer):
                yield piece
                advance(len(piece))

        spool = spool_layer(
            counted(),
            layer=layer.digest,
            diff_id=self._config.diff_ids[number],
            directory=self._work.directory,
            proceed=self._crew.check,
        )
        self._owned.callback(spool.close)
        self._work.progress.finish(step, f"unpacked to {megabytes(spool.size)}")
        return spool

    def _push(self, made: LayerBlob, number: int) -> None:
        step = f"push layer {self._of(number)}"
        self._work.progress.begin(step, made.content.size)
        with made.content:
            self._work.destination.put_blob(blob_descriptor(made.blob.id, made.content.size),
            made.content.open)
        self._work.progress.finish(step, made.blob.id[:12])

    def _publish(
        self, layers: list[Descriptor], diff_ids: list[str], has_blob: list[bool], tag: str | None
    ) -> Descriptor:
        raw = converted_config(self._config, diff_ids, has_blob)
        config = Descriptor(self._manifest.config.media_type, digest_of(raw), len(raw))
        destination = self._work.destination
        destination.put_blob(config, lambda: io.BytesIO(raw))
        manifest = converted_manifest(self._manifest, config, layers)
        return destination.put_manifest(manifest, self._manifest.media_type, tag=tag)

    def _proceed(self, step: str) -> Callable[[int], None]:
        def proceed(count: int) -> None:
            self._crew.check()
            self._work.progress.advance(step, count)

        return proceed

    def _of(self, number: int) -> str:
        return f"{number + 1}/{len(self._manifest.layers)}"


@contextmanager
def _timed(clock: _Clock, phase: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        clock[phase] += time.monotonic() - began
