"""One image of one platform, converted: layers come in, are merged and packed; blobs and documents go out.

Four things happen at once: the next layers are fetched and cut into chunks, those that were are compressed on
all cores, finished blobs are pushed, and one thread merges the tree and writes the bootstrap of it. The
manifest is put last, so a failure at any point publishes nothing. Scratch space needed is that of the chunks
that are new and of the blobs. Not here: indexes and tags (`convert`).
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from builder.bootstrap_layer import BootstrapLayer, write_bootstrap_layer
from builder.chunk_spool import ChunkSpool
from builder.convert_options import ConvertOptions
from builder.crew import Crew
from builder.hot.file_looks import FileLooks
from builder.hot.hot_blob import HotBlob, continued, hot_chunks, refer
from builder.hot.hot_list import find_hot_files
from builder.hot.prefetch_list import find_wished
from builder.image_documents import SourceConfig, check_layers, read_config
from builder.known_image import KnownBlob
from builder.layer_blob import ImagePacker, LayerBlob, PackOptions, StoredBlob
from builder.layer_record import ANNOTATION, LayerFacts, Record, UndoMissing, encode, note
from builder.layers.layer_reader import ReadLayer, read_layer
from builder.layers.overlay import empty_tree, merge_layer
from builder.progress import Progress
from builder.publishing import Publishing
from builder.report import ImageReport, LayerReport
from builder.reuse import Dictionary, Start, repository_of, start_from_dictionaries, start_from_shelf, way
from builder.shelf import Shelf
from builder.tree_undo import snapshot, undo_to
from rafs.bootstrap_writer import BootstrapDraft
from rafs.finished_blob import FinishedBlob
from rafs.tree import Node
from registry_client.digest import Digest
from registry_client.manifest import Descriptor, Manifest
from registry_client.platform import host_platform
from registry_client.sizes import megabytes
from registry_client.source import ImageDestination, ImageSource

_log = logging.getLogger(__name__)

_FETCHERS: Final = 2  # one unpacks while the other waits for the network

_Clock = dict[str, float]


@dataclass(frozen=True, slots=True)
class Work:
    """What all parts of one conversion share."""

    source: ImageSource
    destination: ImageDestination
    options: ConvertOptions
    progress: Progress
    shelf: Shelf | None  # where earlier images may be; not asked when there are dictionaries
    dictionaries: tuple[Dictionary, ...]
    source_repository: str | None  # if source and destination are in one registry

    @property
    def pack(self) -> PackOptions:
        """How blobs are packed."""
        chosen = self.options
        return PackOptions(chosen.chunk_size, chosen.batch_size, chosen.compression_level)

    @property
    def jobs(self) -> int:
        """How many units are compressed at a time."""
        return self.options.jobs or len(os.sched_getaffinity(0))


def convert_image(
    work: Work, manifest: Manifest, config_raw: bytes, *, platform: str, tag: str | None
) -> ImageReport:
    """Publish what *manifest* is converted to under *tag* (None: by digest only), and say what it took.

    *config_raw* is its config document. *platform* names the image in the report and in progress; empty:
    what the config says.

    Raises:
        SourceUnsupported: layers or config of a kind that is not converted.
        LayerInvalid, LayerUnsupported, SpoolFull, SpoolFailed.
        rafs.errors.ImageTooLarge, rafs.tree.PlanInvalid: the image does not fit into the format.
        RegistryError: of the source or the destination.
    """
    check_layers(manifest)
    config = read_config(manifest, config_raw)
    try:
        return _converted(work, manifest, config, platform, tag)
    except UndoMissing as error:
        # With it the result would not be that of converting everything.
        _log.info("%s; all layers are converted anew", error)
        return _converted(replace(work, shelf=None), manifest, config, platform, tag)


def _converted(
    work: Work, manifest: Manifest, config: SourceConfig, platform: str, tag: str | None
) -> ImageReport:
    with ExitStack() as owned, Crew() as crew:
        conversion = _Conversion(work, manifest, config, crew, owned)
        try:
            return conversion.run(platform or str(config.platform), tag)
        except BaseException as error:
            conversion.give_up(error)
            raise


class _Fetched(NamedTuple):
    """A layer, and its chunks that were not known yet."""

    read: ReadLayer
    spool: ChunkSpool


class _Tree(NamedTuple):
    """The merged tree, ready to be written."""

    draft: BootstrapDraft
    looks: FileLooks
    hot_files: int
    hot_key: int | None  # of the blob with what is needed first
    unmatched: tuple[bytes, ...]  # wishes for prefetching that name nothing


class _Conversion:
    """The state of one run; used once, by one thread."""

    def __init__(
        self, work: Work, manifest: Manifest, config: SourceConfig, crew: Crew, owned: ExitStack
    ) -> None:
        self._work = work
        self._options = work.options
        self._manifest = manifest
        self._config = config
        self._crew = crew
        self._owned = owned
        self._fetchers = crew.pool(_FETCHERS, "fetch")
        self._publishing = Publishing(work.destination, crew, work.progress, work.options.work_dir)
        pool = crew.pool(work.jobs, "pack")
        self._packer = ImagePacker(
            work.pack, lambda unit: crew.submit(pool, unit), directory=work.options.work_dir
        )
        self._start = self._find_start()
        self._root = self._start.root
        self._facts = list(self._start.layers)
        self._dropped: Counter[str] = Counter()
        self._seconds: _Clock = dict.fromkeys(("fetching", "merging", "packing", "writing", "pushing"), 0.0)

    def _find_start(self) -> Start:
        work, diff_ids = self._work, self._config.diff_ids
        if work.dictionaries:
            platform = self._config.platform
            wanted = platform if platform.architecture else host_platform()
            return start_from_dictionaries(work.dictionaries, wanted, diff_ids, work.pack, self._packer)
        if work.shelf is not None:
            return start_from_shelf(work.shelf, diff_ids, work.pack, self._packer, work.destination)
        return Start(empty_tree(), (), None)

    def give_up(self, error: BaseException) -> None:
        """Nobody need wait any more for a blob."""
        for stored in self._packer.blobs:
            if isinstance(stored, LayerBlob):
                stored.fail(error)

    def run(self, platform: str, tag: str | None) -> ImageReport:
        self._take_layers()
        with _timed(self._seconds, "writing"):
            tree = self._arrange()
        with _timed(self._seconds, "packing"):
            keyed = [stored.blob() for stored in self._packer.blobs]
        with _timed(self._seconds, "writing"):
            bootstrap = tree.draft.finish(keyed)
            stored = self._listed_blobs(tree.draft.keys)
            blobs = [one.blob() for one in stored]
            ids = tuple(blob.id for blob in keyed)
            record = Record(ids, tuple(self._facts), tree.looks.answers, tree.hot_key)
            last = self._write_layer(bootstrap, blobs, record)
        with _timed(self._seconds, "pushing"):
            put = self._publish(stored, blobs, last, tag)
        hot_blob = None if tree.hot_key is None else keyed[tree.hot_key]
        known = len(self._start.layers)
        return ImageReport(
            platform=platform,
            source_digest=self._manifest.digest,
            media_type=put.media_type,
            digest=put.digest,
            manifest_bytes=put.size,
            already_converted=False,
            layers=tuple(self._report(number, known) for number in range(len(self._manifest.layers))),
            bootstrap_bytes=len(bootstrap),
            bootstrap_layer_bytes=last.content.size,
            hot_files=tree.hot_files,
            hot_blob_bytes=0 if hot_blob is None else hot_blob.object_size,
            chunks=sum(blob.chunk_count for blob in blobs),
            chunks_shared=self._packer.chunks_shared,
            dropped_xattrs=dict(self._dropped),
            not_prefetched=tuple(wish.decode("utf-8", "replace") for wish in tree.unmatched),
            seconds={phase: round(spent, 3) for phase, spent in self._seconds.items()},
        )

    def _take_layers(self) -> None:
        """Merge all layers into the tree, and have the chunks of the new ones packed and pushed."""
        count = len(self._manifest.layers)
        known = len(self._start.layers)
        reading: dict[Digest, Future[_Fetched]] = {}
        for number, layer in enumerate(self._manifest.layers[known:], known):
            if layer.digest not in reading:
                reading[layer.digest] = self._crew.submit(self._fetchers, self._fetch, number)
        for number in range(known):
            self._known_layer(number)
        for number in range(known, count):
            self._layer(number, reading)

    def _arrange(self) -> _Tree:
        """What the bootstrap will hold but for the blobs' tables: the tree, and what is hot in it."""
        self._packer.known.clear()  # half as large as the tree, and of no more use
        looks = FileLooks(self._packer.read, self._start.looks, self._start.adopted)
        wished, unmatched = find_wished(self._root, self._options.prefetch)
        hot = wished
        if wished != [self._root]:
            found = find_hot_files(self._root, self._config.document, looks)
            hot = list(dict.fromkeys([*wished, *found]))
        hot_key = self._copy_hot(hot) if wished or self._options.hot_blob is HotBlob.ALL else None
        draft = BootstrapDraft(
            self._root,
            [stored.tables for stored in self._packer.blobs],
            chunk_size=self._work.pack.chunk_size,
            prefetch=hot,
        )
        self._root = empty_tree()  # the draft has it all
        return _Tree(draft, looks, len(hot), hot_key, tuple(unmatched))

    def _write_layer(
        self, bootstrap: bytes | bytearray, blobs: Sequence[FinishedBlob], record: Record
    ) -> BootstrapLayer:
        # A dictionary is an input of its own, so what its record leaves out decides as all of it does.
        encoded = encode(record, len(bootstrap), inherited=bool(self._work.dictionaries))
        last = write_bootstrap_layer(
            bootstrap, blobs, self._options.work_dir, encoded, threads=self._work.jobs
        )
        self._owned.callback(last.content.close)
        return last

    def _publish(
        self,
        stored: Sequence[StoredBlob],
        blobs: Sequence[FinishedBlob],
        last: BootstrapLayer,
        tag: str | None,
    ) -> Descriptor:
        work = self._work
        for one in stored:
            if isinstance(one, KnownBlob) and work.dictionaries:
                self._publishing.bring(one, repository_of(one, work.dictionaries))
        self._publishing.wait()
        return self._publishing.put_documents(
            self._manifest,
            self._config,
            blobs,
            last,
            {ANNOTATION: note(way(work.pack, work.dictionaries), self._config.diff_ids)},
            has_blob=[fact.blob is not None for fact in self._facts],
            spelling=work.options.spelling,
            referrer=work.options.referrer,
            tag=tag,
        )

    def _copy_hot(self, nodes: Sequence[Node]) -> int | None:
        """The key of a blob with the chunks of *nodes*, to which all files refer now; None: there is none."""
        wanted = self._options.hot_blob is not HotBlob.NONE and nodes != [self._root]
        # A chunk that was stored again stays where it is: the next version could not tell whose copy it was.
        refs = [ref for ref in hot_chunks(nodes) if not self._packer.is_spare(ref)] if wanted else []
        if not refs:
            return None
        known = self._start.image.hot if self._start.image is not None else None
        if known is not None and not self._work.destination.has_blob(known.entry):
            known = None
        spool = ChunkSpool(self._options.work_dir)
        self._owned.callback(spool.close)
        key = len(self._packer.blobs)
        step = "pack what is needed first"
        self._work.progress.begin(step, None)
        rows = continued(self._root, frozenset(refs))
        packed = self._packer.pack_copies(refs, rows, spool, known, self._proceed(step))
        if packed is None:
            self._work.progress.finish(step, "a layer has just that")
            return None
        made, moved = packed
        refer(self._root, moved)
        if isinstance(made, LayerBlob):
            self._owned.callback(made.content.close)
            self._publishing.push(made, packing=step, name="what is needed first")
        else:
            self._work.progress.finish(step, "converted already")
        return key

    def _listed_blobs(self, used: Sequence[int]) -> list[StoredBlob]:
        """The blobs the manifest lists: the layers' own in their order, then others that files use."""
        own = [fact.blob for fact in self._facts if fact.blob is not None]
        return [self._packer.blobs[key] for key in dict.fromkeys([*own, *used])]

    def _known_layer(self, number: int) -> None:
        self._dropped.update(self._facts[number].dropped)
        self._work.progress.begin(f"layer {self._of(number)}", None)
        self._work.progress.finish(f"layer {self._of(number)}", "converted already")

    def _report(self, number: int, known: int) -> LayerReport:
        layer, facts = self._manifest.layers[number], self._facts[number]
        blob = None if facts.blob is None else self._packer.blobs[facts.blob].blob()
        name, size = (None, 0) if blob is None else (f"sha256:{blob.id}", blob.object_size)
        return LayerReport(
            layer.digest, layer.size, facts.tar_bytes, facts.files, name, size, reused=number < known
        )

    def _layer(self, number: int, reading: dict[Digest, Future[_Fetched]]) -> None:
        layer = self._manifest.layers[number]
        with _timed(self._seconds, "fetching"):
            read, spool = reading[layer.digest].result()
        step = f"pack layer {self._of(number)}"
        with _timed(self._seconds, "merging"):
            several = sum(one.digest == layer.digest for one in self._manifest.layers) > 1
            entries = read.again() if several else read.entries
            before = snapshot(self._root) if number else None
            dropped: Counter[str] = Counter()
            files = merge_layer(self._root, entries, layer=layer.digest, dropped=dropped)
            undo = undo_to(before, self._root) if before is not None else None
            self._dropped.update(dropped)
            self._work.progress.begin(step, sum(file.node.size for file in files if file.node is not None))
            made = self._packer.pack(files, spool, self._proceed(step))
            if not several:  # nobody needs them any more, and there may be a million
                read.entries.clear()
                spool.places.clear()
        diff_id = self._config.diff_ids[number]
        key = None if made is None else len(self._packer.blobs) - 1
        self._facts.append(LayerFacts(diff_id, key, read.tar_bytes, len(files), dropped, undo))
        if made is None:
            self._work.progress.finish(step, "nothing new")
            return
        self._owned.callback(made.content.close)
        self._publishing.push(made, packing=step, name=f"layer {self._of(number)}")

    def _fetch(self, number: int) -> _Fetched:
        layer = self._manifest.layers[number]
        step = f"fetch layer {self._of(number)}"
        self._work.progress.begin(step, layer.size)
        advance = self._proceed(step)

        def counted() -> Iterator[bytes]:
            for piece in self._work.source.read_blob(layer):
                yield piece
                advance(len(piece))

        spool = ChunkSpool(self._options.work_dir, self._packer.known)
        self._owned.callback(spool.close)
        read = read_layer(
            counted(),
            layer=layer.digest,
            diff_id=self._config.diff_ids[number],
            chunk_size=self._work.pack.chunk_size,
            take=spool.take,
            proceed=self._crew.check,
        )
        spool.flush()
        self._work.progress.finish(step, f"unpacked to {megabytes(read.tar_bytes)}")
        return _Fetched(read, spool)

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
