"""What can be chosen of a conversion, for all its parts; `convert_verb` reads it from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder.discovery import Spelling
from builder.hot.hot_blob import HotBlob
from rafs.defaults import BATCH_SIZE, CHUNK_SIZE, COMPRESSION_LEVEL
from registry_client.platform import Platform


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """What a user can choose; sizes in bytes. All but `jobs` and `work_dir` decide the resulting digest."""

    platform: Platform | None = None  # None: this machine's
    every_platform: bool = False  # an index of all images instead of one image
    chunk_size: int = CHUNK_SIZE
    batch_size: int = BATCH_SIZE
    compression_level: int = COMPRESSION_LEVEL
    prefetch: tuple[bytes, ...] = ()  # paths and patterns, before what the command needs
    jobs: int = 0  # units compressed at a time; 0: one per processor
    work_dir: Path | None = None  # for scratch files; None: where the system keeps them
    spelling: Spelling | None = None  # publish an index with both images per platform, spelt so
    referrer: bool = False  # let the converted image refer to the ordinary one
    hot_blob: HotBlob = HotBlob.NAMED
