"""What a check of an image says in the end, to people and scripts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rafs.findings import Finding


@dataclass(slots=True)
class Verdict:
    """What was looked at and what is wrong with it."""

    reference: str
    digest: str = ""
    findings: list[Finding] = field(default_factory=list)
    inodes: int = 0
    blobs: int = 0
    chunks: int = 0
    chunks_verified: int = 0
    against: str = ""  # the ordinary image it was compared with
    paths_compared: int = 0
    files: int = 0  # of these paths, each file once
    files_compared: int = 0  # by content; the others are in blobs that have findings
    bytes_compared: int = 0
    dropped_xattrs: dict[str, int] = field(default_factory=dict)  # of that image: the format cannot hold them

    @property
    def sound(self) -> bool:
        """Nothing is wrong with what was looked at."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        findings = [{"rule": one.rule, "where": one.where, "message": one.message} for one in self.findings]
        against = self.against or None
        return {**asdict(self), "sound": self.sound, "against": against, "findings": findings}
