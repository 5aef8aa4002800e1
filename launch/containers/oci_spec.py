"""From an image's config and the user's wishes to the OCI runtime specification that runc and crun read.

Pure: knows no image, mount or process; facts about the host come in as a `Host`. The rules are docker's, so
that an image behaves here as its author saw it behave: which arguments run, which environment, which
capabilities, what is hidden in /proc. Not docker's: the network is the host's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.image_documents import DEFAULT_PATH
from launch.containers.run_errors import RunError
from launch.containers.users import ContainerUser
from launch.images.image_config import ImageConfig

SPEC_VERSION = "1.0.2"

# docker's default set (moby, oci/caps/defaults.go) with the kernel's numbers (linux/capability.h).
CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_RAW": 13,
    "CAP_SYS_CHROOT": 18,
    "CAP_MKNOD": 27,
    "CAP_AUDIT_WRITE": 29,
    "CAP_SETFCAP": 31,
}

# moby, oci/defaults.go
MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

MOUNTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("proc", "/proc", ("nosuid", "noexec", "nodev")),
    ("tmpfs", "/dev", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("devpts", "/dev/pts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    ("sysfs", "/sys", ("nosuid", "noexec", "nodev", "ro")),
    ("cgroup", "/sys/fs/cgroup", ("nosuid", "noexec", "nodev", "relatime", "ro")),
    ("mqueue", "/dev/mqueue", ("nosuid", "noexec", "nodev")),
    ("tmpfs", "/dev/shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
)

BIND_OPTIONS = ("rbind", "ro", "nosuid", "nodev", "noexec")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for on top of the image's config; None means "as the image says"."""

    command: tuple[str, ...] = ()
    entrypoint: str | None = None
    env: tuple[str, ...] = ()
    working_dir: str | None = None
    user: str | None = None
    terminal: bool = False
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """What the specification needs to know of this machine."""

    hostname: str
    environment: Mapping[str, str]
    capability_bits: int
    filesystems: frozenset[str]
    bound_files: tuple[str, ...]
    own_cgroup_view: bool = False


def arguments(config: ImageConfig, wanted: Wanted) -> tuple[str, ...]:
    """What is executed, by docker's rules: an entrypoint given by the user drops the image's command as well.

    Raises:
        RunError: neither the image nor the user names a command.
    """
    if wanted.entrypoint is not None:
        entrypoint = (wanted.entrypoint,) if wanted.entrypoint else ()
        argv = entrypoint + wanted.command
    else:
        argv = config.entrypoint + (wanted.command or config.command)
    if not argv:
        raise RunError("cannot run the image: it names no command; give one after the image's name")
    return argv


def environment(config: ImageConfig, wanted: Wanted, host: Host, home: str) -> list[str]:
    """`NAME=value` lines: defaults, the image's, the user's; a bare NAME takes the host's value or unsets."""
    values = {"PATH": DEFAULT_PATH, "HOSTNAME": host.hostname}
    if wanted.terminal:
        values["TERM"] = "xterm"
    for line in config.env:
        name, _, value = line.partition("=")
        if name:
            values[name] = value
    for line in wanted.env:
        name, given, value = line.partition("=")
        if given:
            values[name] = value
        elif name in host.environment:
            values[name] = host.environment[name]
        else:
            values.pop(name, None)
    values.setdefault("HOME", home)
    return [f"{name}={value}" for name, value in values.items()]


def working_dir(config: ImageConfig, wanted: Wanted) -> str:
    """The absolute directory the command starts in."""
    chosen = wanted.working_dir or config.working_dir or "/"
    return chosen if chosen.startswith("/") else f"/{chosen}"


def runtime_spec(
    config: ImageConfig, wanted: Wanted, host: Host, user: ContainerUser, root: Path
) -> dict[str, Any]:
    """The `config.json` of a bundle whose root file system is the directory *root* on this host.

    Raises:
        RunError: there is no command to run.
    """
    # With unified cgroups docker hides the host's tree; with the older ones runc needs to see it.
    own = ("pid", "ipc", "uts", "mount", *(("cgroup",) if host.own_cgroup_view else ()))
    return {
        "ociVersion": SPEC_VERSION,
        "hostname": host.hostname,
        "root": {"path": str(root), "readonly": wanted.read_only},
        "process": {
            "terminal": wanted.terminal,
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.additional_gids)},
            "args": list(arguments(config, wanted)),
            "env": environment(config, wanted, host, user.home),
            "cwd": working_dir(config, wanted),
            "capabilities": _capabilities(host.capability_bits, user.uid),
            "noNewPrivileges": False,
        },
        "mounts": _mounts(host),
        "linux": {
            "namespaces": [{"type": kind} for kind in own],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READONLY_PATHS),
        },
    }


def _capabilities(held: int, uid: int) -> dict[str, list[str]]:
    # A runtime fails outright when told to grant what it does not hold, as in nested containers.
    names = [name for name, number in CAPABILITIES.items() if held >> number & 1]
    if uid != 0:
        return {"bounding": names}
    return {"bounding": names, "effective": names, "permitted": names}


def _mounts(host: Host) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"destination": target, "type": kind, "source": kind, "options": list(options)}
        for kind, target, options in MOUNTS
        if kind in host.filesystems
    ]
    mounts += [
        {"destination": file, "type": "bind", "source": file, "options": list(BIND_OPTIONS)}
        for file in host.bound_files
    ]
    return mounts
