"""Looking things up inside an image as a process rooted there would, from outside.

Symbolic links of an image are hostile: /etc/passwd may point to ../../etc/shadow. The kernel resolves every
path here with the image as its root (openat2, RESOLVE_IN_ROOT, Linux 5.6), so none leads out. Only for the
image's own file system: what a container mounts over it (/proc, /dev) is not seen.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from contextlib import suppress

from launch.containers.run_errors import CommandNotExecutable, CommandNotFound, RunError

# One number on every architecture, as for all system calls since 5.0.
SYS_OPENAT2 = 437
# linux/openat2.h
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10

# Account files are a few kilobytes; a larger one is no account file and must not fill our memory.
READ_LIMIT = 4 << 20

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})

# The container gets these from its runtime, not from the image.
MOUNTED_OVER = (b"/proc/", b"/dev/", b"/sys/")


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_in_root(root: int, path: bytes, flags: int) -> int:
    """A new descriptor, owned by the caller, for *path* below the open directory *root*; raises OSError."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    libc = ctypes.CDLL(None, use_errno=True)
    while True:
        descriptor = libc.syscall(SYS_OPENAT2, root, path, ctypes.byref(how), ctypes.sizeof(how))
        if descriptor >= 0:
            return int(descriptor)
        code = ctypes.get_errno()
        # EAGAIN: a rename or mount raced with a ".." of the path.
        if code not in (errno.EAGAIN, errno.EINTR):
            raise OSError(code, os.strerror(code), os.fsdecode(path))


def mode_in_root(root: int, path: bytes) -> int | None:
    """The `st_mode` of what *path* leads to, or None where that is absent."""
    try:
        descriptor = open_in_root(root, path, os.O_PATH)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise
    try:
        return os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)


def read_in_root(root: int, path: bytes) -> bytes:
    """The content of the regular file *path*; empty when it is absent or not a regular file.

    Raises:
        RunError: it cannot be read, or is larger than any account file.
    """
    try:
        place = open_in_root(root, path, os.O_PATH)
    except OSError as error:
        if error.errno in ABSENT:
            return b""
        raise _unreadable(path, error) from error
    try:
        # Looked at before it is opened: opening a FIFO or a device of an image could block or act.
        if not stat.S_ISREG(os.fstat(place).st_mode):
            return b""
        with open(f"/proc/self/fd/{place}", "rb") as file:  # noqa: PTH123 - a magic link, not a path of ours
            content = file.read(READ_LIMIT + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(place)
    if len(content) > READ_LIMIT:
        raise RunError(f"cannot use {os.fsdecode(path)} of the image: it has more than {READ_LIMIT} bytes")
    return content


def make_directory_in_root(root: int, path: bytes) -> None:
    """Make the directory *path* below *root*, and what is missing above it; one that is there stays.

    Raises:
        RunError: something else is in the way.
    """
    refused = f"cannot make the working directory {os.fsdecode(path)}"
    so_far = b""
    for part in path.strip(b"/").split(b"/"):
        above, so_far = so_far or b"/", so_far + b"/" + part
        try:
            mode = mode_in_root(root, so_far)
            if mode is None and part not in (b"", b".", b".."):
                parent = open_in_root(root, above, os.O_PATH | os.O_DIRECTORY)
                try:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=parent)
                finally:
                    os.close(parent)
        except OSError as error:
            raise RunError(f"{refused}: {error.strerror}; give another (-w)") from error
    mode = mode_in_root(root, path)
    if mode is None or not stat.S_ISDIR(mode):
        raise RunError(f"{refused}: something else has that name; give another (-w)")


def check_command(root: int, command: str, search_path: str, directory: str) -> None:
    """Return when *command* can be executed in the image, looked for as execvp with *search_path* does.

    Asked before the runtime is started: the answer is a sentence then, not the runtime's own words.

    Raises:
        CommandNotFound: it is nowhere.
        CommandNotExecutable: it is there, but a directory or without any execute permission.
    """
    elsewhere = [f"{place or '.'}/{command}" for place in search_path.split(":")]
    places = [command] if "/" in command else elsewhere
    candidates = [os.path.join(directory, place) for place in places]  # noqa: PTH118 - inside the image
    refused = None
    for candidate in candidates:
        path = os.fsencode(candidate)
        if path.startswith(MOUNTED_OVER):
            return
        try:
            mode = mode_in_root(root, path)
        except OSError as error:
            raise RunError(f"cannot look for {candidate} in the image: {error.strerror}") from error
        if mode is not None and stat.S_ISREG(mode) and mode & 0o111:
            return
        if mode is not None:
            refused = refused or candidate
    if refused is not None:
        raise CommandNotExecutable(f"cannot run {command} in the image: {refused} is not an executable file")
    where = "there is no such file" if "/" in command else f"it is nowhere in PATH ({search_path})"
    raise CommandNotFound(f"cannot run {command} in the image: {where}")


def _unreadable(path: bytes, error: OSError) -> RunError:
    return RunError(f"cannot read {os.fsdecode(path)} of the image: {error.strerror}")
