"""Files that are either absent or complete: written under another name, synced, renamed."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from chunk_store.named_file import named
from chunk_store.sums import sync_directory


def write_whole(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Make *path* hold *content*, or leave it as it was. What is not *durable* may be torn after a power cut:
    for content that tells by itself whether it is whole.
    """
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        with named(path):
            if durable:
                write_synced(draft, content)
            else:
                draft.write_bytes(content)
            draft.rename(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    if durable:
        sync_directory(path.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file *path* through to the disk."""
    with named(path), path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_json_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in *path*; None where there is no such file or it holds none."""
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
