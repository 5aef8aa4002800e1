"""Why an image cannot be converted, one class for each decision a caller has to take.

A layer problem always names the layer, and the entry where one is at fault.
"""

from __future__ import annotations


class BuildError(Exception):
    """Anything the builder refuses or fails at."""


class SourceUnsupported(BuildError):
    """The source is no image for this builder: another system's, an artifact, an unknown layer type."""


class LayerInvalid(BuildError):
    """A layer is broken: truncated, not the promised content, or not a tar. Reading again cannot help."""


class LayerUnsupported(BuildError):
    """A layer is well formed, but holds something that cannot be shown by the converted image."""


class PrefetchInvalid(BuildError):
    """What is to be prefetched is not understood, or its list cannot be read; a usage error."""


class SpoolFull(BuildError):
    """The work directory has no room for the unpacked layers or the blobs made of them."""


class SpoolFailed(BuildError):
    """The work directory cannot be used: it does not exist, or the disk below it reports errors."""
