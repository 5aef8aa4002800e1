"""Which kernel mounts live, whoever made them: each of them holds a file of its own, as its last device.

The kernel opens it with the mount and closes it when the mount's last user is gone, in whatever mount
namespace that is, also after a lazy unmount. So a lease tells whether the mount lives, and inotify when it
went. What is in the file is for us: what has to be known to take up its windows again after all our
processes were killed. Beside it lies a link to the localised image: where that was found when it was mounted
there may be another by then, or none, because another version of nopull writes another.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from chunk_store.doorway import DIRECTORY_MODE, FILE_MODE
from chunk_store.keeper_client import KEEPER
from chunk_store.window_file import is_held

HOLDS = "mounts"
_IMAGE = ".erofs"  # behind a hold's name: a link to the image


class Hold(NamedTuple):
    """One mount of a localised image."""

    id: str
    path: Path  # the file that the mount holds
    image: Path  # the localised image, there for as long as the hold
    request: Mapping[str, Any] | None  # how its windows are filled, nothing secret; None: it never asks


def hold_path(root: Path, mount_id: str) -> Path:
    """Where the file of that mount lies, *root* being that of its store."""
    return root / KEEPER / HOLDS / mount_id


def make_hold(root: Path, mount_id: str, image: Path, request: Mapping[str, Any] | None) -> int:
    """Make the file for a mount that is about to be made; a descriptor that holds it until the mount does.

    *request* is None for a mount whose windows nobody watches while it opens them: it never asks for one.

    Raises:
        OSError: it cannot be written, or is there already.
    """
    path = hold_path(root, mount_id)
    for directory in (root / KEEPER, path.parent):
        directory.mkdir(DIRECTORY_MODE, exist_ok=True)
    asked = None if request is None else dict(request)
    writing = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        kept = _image_link(path)
        try:
            os.link(image, kept)
        except OSError:  # on another file system, or one without links
            kept = image
        os.write(writing, json.dumps({"image": str(kept), "request": asked}).encode())
        # As the kernel opens it, so that its end is heard of in the same way.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writing)


def lives(path: Path, *, quietly: bool = False) -> bool:
    """Whether a mount holds the file *path*. *quietly*: who watches it must not hear of that; where the
    file system has become read-only it counts as held then.
    """
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            descriptor = os.open(path, os.O_RDWR | flags)
        except OSError as error:
            if error.errno != errno.EROFS or quietly:
                return error.errno == errno.EROFS
            descriptor = os.open(path, os.O_RDONLY | flags)
    except OSError:
        return False
    try:
        return is_held(descriptor)
    finally:
        os.close(descriptor)


def living(root: Path) -> Iterator[Hold]:
    """All mounts that live; what others have left behind is removed."""
    directory = root / KEEPER / HOLDS
    try:
        paths = sorted(directory.iterdir())
    except FileNotFoundError:
        return
    for path in paths:
        if path.suffix == _IMAGE:
            if not path.with_suffix("").exists():
                remove_remains(path)
            continue
        if not lives(path):
            forget_hold(root, path.name)
            continue
        hold = read_hold(path)
        if hold is not None:
            yield hold


def read_hold(path: Path) -> Hold | None:
    """What is in the file *path*; None if there is none, or it is none of ours."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_bytes())
        request = content["request"]
        return Hold(path.name, path, Path(content["image"]), None if request is None else dict(request))
    return None


def forget_hold(root: Path, mount_id: str) -> None:
    """Remove what was kept of a mount that is gone; no error if that was done before."""
    path = hold_path(root, mount_id)
    remove_remains(path)
    remove_remains(_image_link(path))


def remove_remains(path: Path) -> None:
    """Remove the file *path* if it is there; it stays for later where the file system became read-only."""
    try:
        path.unlink()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EROFS):
            raise


def _image_link(hold: Path) -> Path:
    return hold.with_name(hold.name + _IMAGE)
