"""What a mount server answers on its control socket: its status, and which files were read first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chunk_store import Attachment
    from fuse_fs.first_reads import FirstReads
    from launch.mounts import MountRecord


class Answers:
    """Called with a question, gives the answer (a `control.Answer`). Thread-safe."""

    def __init__(
        self,
        record: MountRecord,
        attachment: Attachment,
        first_reads: FirstReads,
        metrics_address: str | None = None,
    ) -> None:
        self._record = record
        self._attachment = attachment
        self._first_reads = first_reads
        self._metrics_address = metrics_address

    def __call__(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._trace() if question.get("ask") == "trace" else self._status()

    def _status(self) -> Mapping[str, Any]:
        progress = self._attachment.progress()
        return {
            **self._record.to_json(),
            "progress": {**asdict(progress), "complete": progress.complete},
            "resident_bytes": resident_bytes(),
            "metrics_address": self._metrics_address,
        }

    def _trace(self) -> Mapping[str, Any]:
        """Paths as text in which a byte that is not UTF-8 is a lone surrogate."""
        files = [
            {"path": os.fsdecode(first.path), "seconds": round(first.seconds, 6), "size": first.size}
            for first in self._first_reads.listed()
        ]
        return {"files": files, "truncated": self._first_reads.full}


def resident_bytes(pid: int | None = None) -> int:
    """Memory of process *pid*, default: this one, that is in RAM; 0 if there is no such process."""
    try:
        pages = Path(f"/proc/{pid or 'self'}/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGESIZE")
