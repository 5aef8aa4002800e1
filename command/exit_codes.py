"""The exit codes of `nopull`, and the one table from errors to them."""

from __future__ import annotations

from typing import Final

OTHER: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
UNAUTHORISED: Final = 4
NOT_FOUND: Final = 5
BROKEN: Final = 6
MOUNT_IMPOSSIBLE: Final = 7
NO_PERMISSION: Final = 8
DISK_FULL: Final = 9
RUN_FAILED: Final = 125
COMMAND_NOT_EXECUTABLE: Final = 126
COMMAND_NOT_FOUND: Final = 127
HUNG_UP: Final = 129
INTERRUPTED: Final = 130
TERMINATED: Final = 143

OF_COMMANDS: Final = frozenset({COMMAND_NOT_EXECUTABLE, COMMAND_NOT_FOUND})  # of containers, from `run`

# Errors by "module.Class"; the nearest class of an error's ancestry that is listed decides. Names instead of
# classes: a table of classes would have to import every package.
EXIT_CODES: Final[dict[str, int]] = {
    "registry_client.errors.ReferenceInvalid": USAGE,
    "registry_client.errors.Unreachable": UNREACHABLE,
    "registry_client.errors.ResponseInvalid": UNREACHABLE,
    "registry_client.errors.Unauthorized": UNAUTHORISED,
    "registry_client.errors.NotFound": NOT_FOUND,
    "registry_client.errors.DigestMismatch": BROKEN,
    "registry_client.errors.MediaTypeUnknown": BROKEN,
    "registry_client.errors.ManifestInvalid": BROKEN,
    "registry_client.errors.RangeInvalid": BROKEN,
    "registry_client.errors.LayoutForbidden": NO_PERMISSION,
    "registry_client.errors.LayoutFull": DISK_FULL,
    "registry_client.errors.LayoutUnusable": OTHER,
    "registry_client.errors.LayoutInvalid": BROKEN,
    "registry_client.errors.RegistryError": OTHER,
    "rafs.errors.RafsError": BROKEN,
    "chunk_store.errors.ChunkUnavailable": UNREACHABLE,
    "chunk_store.errors.ChunkCorrupt": BROKEN,
    "chunk_store.errors.StoreFull": DISK_FULL,
    "chunk_store.errors.StoreForbidden": NO_PERMISSION,
    "chunk_store.errors.StoreWithoutRoom": DISK_FULL,
    "chunk_store.errors.WindowsWrong": OTHER,
    "chunk_store.errors.StoreError": OTHER,
    "builder.errors.SpoolFull": DISK_FULL,
    "builder.errors.LayerInvalid": BROKEN,
    "builder.errors.LayerUnsupported": BROKEN,
    "builder.errors.SourceUnsupported": BROKEN,
    "builder.errors.PrefetchInvalid": USAGE,
    "builder.errors.BuildError": OTHER,
    "fuse_fs.errors.FuseError": MOUNT_IMPOSSIBLE,
    "erofs_fs.errors.ErofsForbidden": NO_PERMISSION,
    "erofs_fs.errors.ErofsError": MOUNT_IMPOSSIBLE,
    "launch.containers.run_errors.RuntimeMissing": MOUNT_IMPOSSIBLE,
    "launch.containers.run_errors.RootNeeded": NO_PERMISSION,
    "launch.containers.run_errors.CommandNotFound": COMMAND_NOT_FOUND,
    "launch.containers.run_errors.CommandNotExecutable": COMMAND_NOT_EXECUTABLE,
    "launch.errors.ImageNotConverted": BROKEN,
    "launch.errors.ImageInvalid": BROKEN,
    "launch.errors.ImageUnsound": BROKEN,
    "launch.errors.RegistryRefuses": UNAUTHORISED,
    "launch.errors.RegistrySilent": UNREACHABLE,
    "launch.errors.ImageIncomplete": MOUNT_IMPOSSIBLE,
    "launch.errors.MountpointForbidden": NO_PERMISSION,
    "launch.errors.MountImpossible": MOUNT_IMPOSSIBLE,
    "launch.errors.ServerFailed": MOUNT_IMPOSSIBLE,
    "launch.errors.MetricsMissing": MOUNT_IMPOSSIBLE,
    "launch.errors.MetricsUnservable": MOUNT_IMPOSSIBLE,
    "launch.errors.NotMounted": NOT_FOUND,
    "launch.errors.LaunchError": OTHER,
    "bench.errors.ProgramMissing": MOUNT_IMPOSSIBLE,
    "bench.errors.RootNeeded": NO_PERMISSION,
    "bench.errors.BenchError": OTHER,
    "builtins.PermissionError": NO_PERMISSION,
    "builtins.OSError": OTHER,
}

# Of these the verb has told everything, on standard output; only the exit code is left.
TOLD_ERRORS: Final = frozenset({
    "chunk_store.errors.WindowsWrong",
    "launch.errors.ImageUnsound",
    "launch.errors.RegistryRefuses",
    "launch.errors.RegistrySilent",
})  # fmt: skip


def exit_code(error: BaseException) -> int:
    """The exit code for *error*: a full disk by its errno, others by the nearest listed class above them."""
    if isinstance(error, OSError):
        from chunk_store.free_room import FULL_ERRNOS  # here, since help is not to load a package of ours

        if error.errno in FULL_ERRNOS:
            return DISK_FULL
    for ancestor in type(error).__mro__:
        code = EXIT_CODES.get(full_name(ancestor))
        if code is not None:
            return code
    return OTHER


def is_listed(error: BaseException) -> bool:
    """Whether the table has a class of *error*; any other is a defect of ours."""
    return any(full_name(ancestor) in EXIT_CODES for ancestor in type(error).__mro__)


def full_name(kind: type) -> str:
    """What the table calls *kind*."""
    return f"{kind.__module__}.{kind.__qualname__}"
