"""What a mount server answers on its control socket: its status, and which files were read first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from erofs_fs.pids import resident_bytes
from fuse_fs.protocol import word_for

if TYPE_CHECKING:
    from chunk_store import Attachment
    from fuse_fs.tree import ImageTree
    from launch.mounts import MountRecord


class Answers:
    """Called with a question, gives the answer (a `control.Answer`). Thread-safe."""

    def __init__(
        self,
        record: MountRecord,
        attachment: Attachment,
        tree: ImageTree,
        asked: Mapping[int, int],
    ) -> None:
        self._record = record
        self._attachment = attachment
        self._tree = tree
        self._asked = asked

    def __call__(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._trace() if question.get("ask") == "trace" else self._status()

    def _status(self) -> Mapping[str, Any]:
        progress = self._attachment.progress_now()
        return {
            **self._record.to_json(),
            "progress": {**asdict(progress), "complete": progress.complete},
            "resident_bytes": resident_bytes(),
            "asked": {word_for(request): count for request, count in sorted(self._asked.items())},
        }

    def _trace(self) -> Mapping[str, Any]:
        """Paths as text in which a byte that is not UTF-8 is a lone surrogate."""
        listed = self._tree.first_reads.listed()
        paths = self._tree.paths(one.nid for one in listed)
        files = [
            {
                "path": os.fsdecode(path),
                "seconds": round(one.seconds, 6),
                "size": self._tree.inode(one.nid).size,
            }
            for path, one in zip(paths, listed, strict=True)
        ]
        return {"files": files, "truncated": self._tree.first_reads.full}
