"""What both ways to mount through FUSE call a mount: its type in the mount table, its source as an option."""

from __future__ import annotations

SUBTYPE = "nopull"
FUSE_TYPE = f"fuse.{SUBTYPE}"  # in the mount table


def fsname_option(fsname: str) -> str:
    """The option that makes *fsname* the mount's source; a letter that would end an option becomes `_`."""
    return "fsname=" + "".join("_" if letter in ",\\" or letter.isspace() else letter for letter in fsname)
