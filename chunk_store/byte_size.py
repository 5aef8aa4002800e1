"""Sizes as people write and read them: "500MB" is 500 000 000 bytes, "2GiB" is 2 147 483 648."""

from __future__ import annotations

import re

import click

_PATTERN = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*(?:([kmgt])(i?)b?|b?)", re.IGNORECASE)
_POWERS = " kmgt"


def byte_size(text: str) -> int:
    """The number of bytes that *text* names, at least one: digits, and perhaps k, M, G or T with B or iB.
    To be the `type` of a click option.

    Raises:
        click.BadParameter: it names none.
    """
    found = _PATTERN.fullmatch(text.strip())
    if found is not None:
        number, unit, binary = found.groups()
        size = int(float(number) * (1024 if binary else 1000) ** _POWERS.index((unit or " ").lower()))
        if size > 0:
            return size
    raise click.BadParameter(f"{text!r} is not a size like 500MB or 2GiB")


def human_size(size: int) -> str:
    """*size* bytes for people: decimal units, as registries and disks use them, one to three digits before
    the point up to a thousand TB.
    """
    if size < 1000:
        return f"{size} B"
    amount, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.95:  # what is rounded to 1000.0 belongs to the next unit
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.1f} {unit}"
