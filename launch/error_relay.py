"""An error of the mount server, as JSON to the process that started it, raised there as the same type.

Only our own error types and those of the operating system are rebuilt; anything else is a defect of the
server and arrives as `ServerFailed`. Carries the message, not the cause: the server's log has that.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from launch.errors import ServerFailed

_PACKAGES = frozenset(
    {"launch", "builder", "fuse_fs", "erofs_fs", "chunk_store", "rafs", "registry_client"}
)


def describe(error: BaseException) -> dict[str, Any]:
    """*error* as JSON."""
    described: dict[str, Any] = {
        "module": type(error).__module__,
        "name": type(error).__qualname__,
        "message": str(error),
    }
    if isinstance(error, OSError) and error.errno is not None:
        described["errno"] = error.errno
        described["strerror"] = error.strerror
        described["filename"] = None if error.filename is None else str(error.filename)
    return described


def is_known(error: BaseException) -> bool:
    """Whether *error* will be rebuilt as what it is."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _PACKAGES


def rebuild(described: Mapping[str, Any]) -> Exception:
    """The error that `describe` described."""
    message = str(described.get("message"))
    if "errno" in described:
        filename = described.get("filename")
        return OSError(described["errno"], described["strerror"], *([filename] if filename else []))
    module, name = str(described.get("module")), str(described.get("name"))
    if module.partition(".")[0] in _PACKAGES:
        try:
            kind = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            kind = None
        if isinstance(kind, type) and issubclass(kind, Exception):
            # Not through __init__: some take more than a message.
            error = kind.__new__(kind)
            error.args = (message,)
            return error
    return ServerFailed(f"the mount server failed with {name}: {message}")
