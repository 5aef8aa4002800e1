"""What a check has found, and how it is handed on: collected by `check`, raised by the readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .errors import FormatInvalid


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule. `rule` is stable, lower-case with dashes; `where` names the record or path."""

    rule: str
    where: str
    message: str
    fatal: bool = False  # such an image is not opened at all

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.rule}]"


Report = Callable[[Finding], None]


def refuse(finding: Finding) -> None:
    """The reader's report: a fatal finding is an error, others are for `check`.

    Raises:
        FormatInvalid: the finding is fatal.
    """
    if finding.fatal:
        raise FormatInvalid(f"bootstrap refused: {finding}")
