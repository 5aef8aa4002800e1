"""Which extended attributes of a layer an image keeps.

The format has five namespaces; others cannot be stored and are dropped, counted. Overlayfs' own attributes
are instructions to it and are never kept: a mount of ours below an overlay would have them carried out again.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from builder.errors import LayerUnsupported
from rafs.tree import PlanInvalid
from rafs.xattr_area import can_hold, pack_xattrs

_OVERLAY: Final = b"trusted.overlay."
_OVERLAY_OPAQUE: Final = b"trusted.overlay.opaque"
# The file's bytes, or the directory's names, lie somewhere in a lower layer that a tar does not name.
_OVERLAY_INDIRECT: Final = frozenset({b"trusted.overlay.metacopy", b"trusted.overlay.redirect"})

_NAMES_LIMIT: Final = 1 << 16  # bytes, each name with a NUL byte; XATTR_LIST_MAX


def is_opaque(xattrs: dict[bytes, bytes] | None) -> bool:
    """Whether overlayfs takes a directory with these for one that hides what lies below."""
    return xattrs is not None and xattrs.get(_OVERLAY_OPAQUE) == b"y"


def needed_xattrs(xattrs: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """What of an entry's *xattrs* is worth keeping in memory: without the values that no image has.

    Raises:
        PlanInvalid: they are larger than an image or Linux can have them.
    """
    names = sum(len(name) + 1 for name in xattrs)
    if names > _NAMES_LIMIT:
        raise PlanInvalid(f"the names of its xattrs take {names} bytes, Linux lists at most {_NAMES_LIMIT}")
    needed = {}
    for name, value in xattrs.items():
        if name == _OVERLAY_OPAQUE:
            needed[name] = value[:2]
        elif name in _OVERLAY_INDIRECT or not can_hold(name):
            needed[name] = b""
        elif not name.startswith(_OVERLAY):
            needed[name] = value
    pack_xattrs({name: value for name, value in needed.items() if can_hold(name)})
    return needed


def kept_xattrs(xattrs: dict[bytes, bytes] | None, dropped: Counter[str]) -> dict[bytes, bytes] | None:
    """Those of *xattrs* the image has, None if there are none; adds the names of the others to *dropped*.

    Raises:
        LayerUnsupported: an attribute says that the content lies elsewhere.
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
        if can_hold(name):
            kept[name] = value
        else:
            dropped[name.decode("utf-8", "replace")] += 1
    return kept or None
