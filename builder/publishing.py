"""What a conversion made, on its way to the destination: each blob as soon as it is packed, documents last.

The manifest is put last, so that whoever sees it can have all it names.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from builder.bootstrap_layer import BootstrapLayer
from builder.copying import bring_blob
from builder.crew import Crew
from builder.discovery import Spelling
from builder.image_documents import (
    SourceConfig,
    blob_descriptor,
    bootstrap_descriptor,
    converted_config,
    converted_manifest,
)
from builder.known_image import KnownBlob
from builder.layer_blob import LayerBlob
from builder.progress import Progress
from rafs.finished_blob import FinishedBlob
from registry_client.digest import digest_of
from registry_client.manifest import Descriptor, Manifest, MediaType
from registry_client.sizes import megabytes
from registry_client.source import ImageDestination

_PUSHERS: Final = 2


class Publishing:
    """Of one image; its methods are called by one thread. *directory* is for scratch files."""

    def __init__(
        self, destination: ImageDestination, crew: Crew, progress: Progress, directory: Path | None
    ) -> None:
        self._destination = destination
        self._crew = crew
        self._progress = progress
        self._directory = directory
        self._threads = crew.pool(_PUSHERS, "push")
        self._pushes: list[Future[None]] = []

    def push(self, made: LayerBlob, *, packing: str, name: str) -> None:
        """Push *made* once it is packed, and give up its bytes; *packing* is the step that ends before."""
        self._pushes.append(self._crew.submit(self._threads, self._push, made, packing, f"push {name}"))

    def bring(self, known: KnownBlob, repository: str | None) -> None:
        """Have a blob of another image there; *repository*: where it can be mounted from.

        Raises:
            RegistryError: of either side.
        """
        bring_blob(
            known.source,
            repository,
            known.entry,
            self._destination,
            directory=self._directory,
            progress=self._progress,
        )

    def wait(self) -> None:
        """Until all that was pushed is there; raises what kept it from that."""
        for push in self._pushes:
            push.result()

    def put_documents(
        self,
        source: Manifest,
        config: SourceConfig,
        blobs: Sequence[FinishedBlob],
        last: BootstrapLayer,
        annotations: Mapping[str, str],
        *,
        has_blob: Sequence[bool],
        spelling: Spelling | None,
        referrer: bool,
        tag: str | None,
    ) -> Descriptor:
        """Bootstrap layer, config and manifest of what *source* was converted to; the manifest's descriptor.

        *has_blob* says which layers of the source have one of *blobs*, the first ones of them. *spelling* is
        that of the index it will be in, *referrer* has it say what it was made of, *tag* names it.

        Raises:
            RegistryError: of the destination.
        """
        entry = bootstrap_descriptor(source, last.digest, last.content.size)
        self._destination.put_blob(entry, last.content.open)
        diff_ids = [*(f"sha256:{blob.id}" for blob in blobs), last.diff_id]
        raw = converted_config(config, diff_ids, has_blob, len(blobs) - sum(has_blob))
        kind = MediaType.NYDUS_CONFIG if spelling is Spelling.ARTIFACT_TYPE else source.config.media_type
        described = Descriptor(kind, digest_of(raw), len(raw))
        self._destination.put_blob(described, lambda: io.BytesIO(raw))
        layers = [*(blob_descriptor(blob.id, blob.object_size) for blob in blobs), entry]
        manifest = converted_manifest(source, described, layers, annotations, subject=referrer)
        return self._destination.put_manifest(manifest, source.media_type, tag=tag)

    def _push(self, made: LayerBlob, packing: str, step: str) -> None:
        blob = made.blob()
        self._progress.finish(packing, f"blob of {megabytes(blob.object_size)}")
        self._progress.begin(step, blob.object_size)
        with made.content:
            self._destination.put_blob(blob_descriptor(blob.id, blob.object_size), made.content.open)
        self._progress.finish(step, blob.id[:12])
