"""Which extended attributes of a layer an image keeps.

The format has five namespaces; others cannot be stored and are dropped, counted. Overlayfs' own attributes
are instructions to it and are never kept: a mount of ours below an overlay would have them carried out
again.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from builder.errors import LayerUnsupported

_KEPT_PREFIXES: Final = (b"user.", b"trusted.", b"security.")
_KEPT_NAMES: Final = frozenset({b"system.posix_acl_access", b"system.posix_acl_default"})
_OVERLAY: Final = b"trusted.overlay."
_OVERLAY_OPAQUE: Final = b"trusted.overlay.opaque"
# The file's bytes, or the directory's, lie somewhere in a lower layer that a tar does not name.
_OVERLAY_INDIRECT: Final = frozenset({b"trusted.overlay.metacopy", b"trusted.overlay.redirect"})
_SUFFIX_LIMIT: Final = 255  # bytes of a name behind its prefix
_VALUE_LIMIT: Final = 65535  # bytes


def is_opaque(xattrs: dict[bytes, bytes] | None) -> bool:
    """Whether overlayfs takes a directory with these for one that hides what lies below."""
    return xattrs is not None and xattrs.get(_OVERLAY_OPAQUE) == b"y"


def kept_xattrs(xattrs: dict[bytes, bytes] | None, dropped: Counter[str]) -> dict[bytes, bytes] | None:
    """Those of *xattrs* the image has, None if there are none; adds the names of the others to *dropped*.

    Raises:
        LayerUnsupported: an attribute says that the content lies elsewhere, or one is too large.
    """
    if xattrs is None:
        return None
    kept = {}
    for name, value in xattrs.items():
        if name in _OVERLAY_INDIRECT:
            raise LayerUnsupported(
                f"{name.decode()}: an overlay's upper directory was packed as it is; pack its merged view"
            )
        if name.startswith(_OVERLAY):
            continue
        if not _is_storable(name):
            dropped[name.decode("utf-8", "replace")] += 1
            continue
        if len(name.partition(b".")[2]) > _SUFFIX_LIMIT or len(value) > _VALUE_LIMIT:
            raise LayerUnsupported(f"xattr {name[:80]!r} of {len(value)} bytes, the limit is {_VALUE_LIMIT}")
        kept[name] = value
    return kept or None


def _is_storable(name: bytes) -> bool:
    if name in _KEPT_NAMES:
        return True
    return name.startswith(_KEPT_PREFIXES) and not name.endswith(b".") and b"\0" not in name
