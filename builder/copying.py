"""Blobs and images that go to the destination as they are: mounted where the registry can, else copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from builder.crew import Crew
from builder.progress import Progress
from builder.scratch import ScratchFile
from registry_client.manifest import Descriptor, Manifest
from registry_client.source import BlobMounting, ImageDestination, ImageSource

COPIERS = 4
"""Blobs of one image that are brought at a time: small ones wait for round trips, large ones for the link."""


def bring_blob(
    source: ImageSource,
    repository: str | None,
    entry: Descriptor,
    destination: ImageDestination,
    *,
    directory: Path | None,
    progress: Progress,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Have the blob *entry* of *source* in *destination*; nothing is moved that is there already.

    *repository* is that of *source* if both are in one registry: then the blob is mounted, without moving
    its bytes, where the registry does that. *directory* is for a scratch file. *check* is called between
    pieces, and may raise to give up.

    Raises:
        SpoolFull, SpoolFailed, RegistryError: it could not be copied.
    """
    if destination.has_blob(entry):
        return
    if (
        repository is not None
        and isinstance(destination, BlobMounting)
        and destination.mount_blob(entry, repository)
    ):
        return
    step = f"copy {entry.digest[7:19]}"
    progress.begin(step, entry.size)
    with ScratchFile(directory) as content:
        for piece in source.read_blob(entry):
            check()
            content.append(piece)
            progress.advance(step, len(piece))
        destination.put_blob(entry, content.open)
    progress.finish(step, "")


def bring_image(
    source: ImageSource,
    repository: str | None,
    manifest: Manifest,
    destination: ImageDestination,
    *,
    tag: str | None,
    directory: Path | None,
    progress: Progress,
) -> None:
    """Have *manifest* with all its blobs in *destination*, byte for byte, under *tag* if there is one.

    Some blobs at a time; the manifest comes when all are there.

    Raises:
        SpoolFull, SpoolFailed, RegistryError: as `bring_blob`.
    """
    entries = {entry.digest: entry for entry in (*manifest.layers, manifest.config)}
    with Crew() as crew:
        pool = crew.pool(COPIERS, "copy")

        def bring(entry: Descriptor) -> None:
            bring_blob(
                source,
                repository,
                entry,
                destination,
                directory=directory,
                progress=progress,
                check=crew.check,
            )

        for brought in [crew.submit(pool, bring, entry) for entry in entries.values()]:
            brought.result()
    destination.put_manifest(manifest.raw, manifest.media_type, tag=tag)
