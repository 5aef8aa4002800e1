"""What can go wrong in a measurement or in the demo."""

from __future__ import annotations


class BenchError(Exception):
    """Root: a server, an image or a run failed; the message says which and with what."""


class ProgramMissing(BenchError):
    """A program that the step needs is not installed."""


class RootNeeded(BenchError):
    """The step needs root (namespaces, mounts, containers) and we are not."""
