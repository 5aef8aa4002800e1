"""Make an image local: fetch what its windows lack, and return when nothing is missing.

Serves `pull` and kernel mounts. Mounts nothing, and gives up only when nothing comes any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from builder.progress import Progress
from chunk_store import Attachment, ChunkStore, ChunkUnavailable, Readers
from chunk_store import Progress as Moment
from launch.images.lazy_image import LazyImage

FILL_STEP = "fetching"
_TICK = 0.1  # seconds between two looks at the progress of a fill


def fill(
    store: ChunkStore,
    image: LazyImage,
    progress: Progress,
    *,
    patience: float,
    refusal: Callable[[int], Exception] | None = None,
) -> Moment:
    """Return when all windows of *image* are local, with what that cost.

    Parameters:
        patience: seconds in which something must come.
        refusal: nothing may be fetched; called with the missing bytes, it makes what is raised then.

    Raises:
        ChunkUnavailable: the remote refuses for good, or nothing came for *patience* seconds.
        and what else `Attachment.wait_complete` raises.
    """
    attachment = store.attach(image.blobs, image.blob_source, background=False, readers=Readers.NONE)
    try:
        now = attachment.progress()
        if now.complete:
            return now
        missing = now.bytes_total - now.bytes_present
        if refusal is not None:
            raise refusal(missing)
        progress.begin(FILL_STEP, missing)
        attachment.start_background()
        last = _followed(attachment, image, progress, patience, now)
        progress.finish(FILL_STEP, "all is local")
        return last
    finally:
        attachment.close()


def _followed(
    attachment: Attachment, image: LazyImage, progress: Progress, patience: float, now: Moment
) -> Moment:
    """Wait for the rest; *now* is the moment at which *progress* was told what is missing."""
    since, received = time.monotonic(), 0
    complete = False
    while not complete:
        complete = attachment.wait_complete(_TICK)
        before, now = now, attachment.progress()
        progress.advance(FILL_STEP, now.bytes_present - before.bytes_present)
        if now.background.compressed_bytes + now.bytes_present != received:
            since, received = time.monotonic(), now.background.compressed_bytes + now.bytes_present
        elif time.monotonic() - since > patience:
            raise ChunkUnavailable(
                f"filling {image.reference.familiar()}: nothing came for {patience:g} s:"
                f" {now.trouble or 'another process fills it and does not get on'}"
            )
    return now
