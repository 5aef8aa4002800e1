"""A process that fills a store: `python -m tests.chunk_store.filler ROOT SEED [KILL]`.

With KILL, a number of bytes, it kills itself with SIGKILL when the remote has sent that many. Prints as JSON
how many bytes the remote sent and whether every byte it read was right.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from chunk_store import ChunkStore
from tests.chunk_store.blobs import Asked, Blob, ScriptedSource, random_blob


def blob_for(seed: str) -> Blob:
    """The blob that parent and child agree on."""
    return random_blob(seed, 3 << 20)


def fill(root: Path, seed: str, kill_at: int | None) -> dict[str, object]:
    """Read the whole blob through a store at *root*."""
    blob = blob_for(seed)
    source = ScriptedSource(blob)
    source.piece = 7_000

    def kill(_: Asked, __: int) -> None:
        if kill_at is not None and source.sent >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    source.on_piece = kill
    with ChunkStore(root) as store:
        attachment = store.attach([blob.meta], source)
        right = attachment.read(0, 0, len(blob.plain)) == blob.plain
        complete = attachment.wait_complete(30)
    return {"sent": source.sent, "right": right, "complete": complete, "whole": blob.unit_bytes}


if __name__ == "__main__":
    kill_at = int(sys.argv[3]) if len(sys.argv) > 3 else None
    print(json.dumps(fill(Path(sys.argv[1]), sys.argv[2], kill_at)))
