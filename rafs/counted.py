"""A number of things as people say it; here because every package that prints may import this one."""

from __future__ import annotations


def counted(count: int, one: str, more: str = "") -> str:
    """*count* with its noun, which is *one* for a single thing and *more*, or *one* with an s, else."""
    return f"{count} {one if count == 1 else more or one + 's'}"
