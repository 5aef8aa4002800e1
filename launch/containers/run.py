"""A container of a lazily mounted image, from reference to exit code, with nothing left behind.

Order matters, for the time to start and for tidying up: what needs no image is done before the mount is
asked for, and everything made is taken away in reverse, also after a failure or a signal. After `kill -9`
the kernel takes the mounts (they are in a namespace of ours), a mount server ends with its starter, and
`containers` removes the rest at the next `run`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from chunk_store.named_file import named
from launch.containers import containers, overlay
from launch.containers.oci_spec import Host, Wanted, arguments, runtime_spec, working_dir
from launch.containers.run_errors import RootNeeded, RunError
from launch.containers.runtime import WATCHED, find_runtime, run_container
from launch.driver_choice import Choice, Driver
from launch.errors import LaunchError, NotMounted
from launch.held_signals import HeldSignals
from launch.images.image_config import ImageConfig, load_config, parse_config
from launch.kernel_mounts.kernel_mount import KernelMount
from launch.log_lines import TEXT
from launch.mountpoint import real_path

if TYPE_CHECKING:
    from launch.images.image_request import ImageRequest
    from launch.mount_request import MountRequest

log = logging.getLogger("nopull.run")

# The host's, because the network is the host's.
HOST_FILES = ("/etc/resolv.conf", "/etc/hosts")
UNIFIED_CGROUP = Path("/sys/fs/cgroup/cgroup.controllers")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One container: which image, from where, and what to change of what the image says."""

    image: ImageRequest
    root: Path
    wanted: Wanted
    driver: str = "auto"  # or "fuse", "erofs"
    name: str | None = None
    runtime: str | None = None
    attach_input: bool = False
    isolate: bool = False  # as in MountRequest
    metrics_address: tuple[str, int] | None = None
    log_format: str = TEXT


def run_image(request: RunRequest) -> int:
    """Run the container and return its exit code. Main thread only; signals stay blocked afterwards.

    Raises:
        RunError: it could not be prepared or started (see `run_errors`).
        What opening and mounting an image raises, as it is.
    """
    if os.geteuid() != 0:
        raise RootNeeded("cannot run a container without root: use sudo, or `nopull mount` for its files")
    if request.wanted.terminal and not any(os.isatty(stream) for stream in (0, 1, 2)):
        raise RunError("cannot give the container a terminal (-t): there is none here; leave -t out")
    runtime = find_runtime(request.runtime)
    with _signals_end_us():
        containers.remove_stale(request.root)
        with ExitStack() as undo:
            try:
                directory = containers.create(request.root, request.name, runtime)
                undo.callback(_tidily, directory.remove)
                wanted, how = _begin_mount(request, directory.path)
                if isinstance(how, KernelMount):
                    undo.callback(how.cancel)
                overlay.enter_private_namespace()
                config = _mount_image(wanted, how, undo)
                spec = _prepare(request.wanted, config, directory.path, undo)
                _write_spec(directory.path / "config.json", spec)
                return run_container(
                    runtime, directory.path, directory.name, attach_input=request.attach_input
                )
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)


def this_host() -> Host:
    """What a specification has to know about this machine and about us."""
    held = (1 << 64) - 1
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(("CapBnd:", "CapPrm:")):
            held &= int(line.split()[1], 16)
    known = Path("/proc/filesystems").read_text(encoding="ascii").splitlines()
    filesystems = {line.split()[-1] for line in known}
    if "cgroup2" in filesystems:
        filesystems.add("cgroup")
    return Host(
        hostname=os.uname().nodename,
        environment=os.environ,
        capability_bits=held,
        filesystems=frozenset(filesystems),
        bound_files=tuple(file for file in HOST_FILES if Path(file).is_file()),
        own_cgroup_view=UNIFIED_CGROUP.exists(),
    )


def _begin_mount(request: RunRequest, directory: Path) -> tuple[MountRequest, KernelMount | Choice]:
    """What is to be mounted, and how: begun already if it is the kernel's, because a filler must not live in
    the container's namespace.
    """
    from launch.mount_request import MountRequest
    from launch.mounting import choose

    wanted = MountRequest(
        image=request.image,
        mountpoint=directory / "lower",
        root=request.root,
        driver=request.driver,
        isolate=request.isolate,
        metrics_address=request.metrics_address,
        log_format=request.log_format,
        bound=True,
    )
    choice = choose(wanted)
    if choice.driver is Driver.EROFS:
        return wanted, KernelMount(wanted, choice.reason)
    return wanted, choice


def _mount_image(wanted: MountRequest, how: KernelMount | Choice, undo: ExitStack) -> ImageConfig:
    """Mount the image; return what it says of containers."""
    from launch.mounting import UNSUITABLE, instead
    from launch.umount import unmount

    with HeldSignals() as held:
        if isinstance(how, KernelMount):
            _load_the_rest()
            try:
                record = how.put(real_path(wanted.mountpoint), held, viewer=os.getpid())
            except UNSUITABLE as error:
                held.release()
                how = instead(wanted, error)
        if isinstance(how, Choice) and how.driver is Driver.FILLED:
            from builder.progress import SilentProgress
            from launch.kernel_mounts.filled_mount import mount_filled

            record = mount_filled(wanted, how.reason, SilentProgress(), held, viewer=os.getpid())
        elif isinstance(how, Choice):
            from launch.fuse_mounts.server import start_mount

            record = start_mount(replace(wanted, driver_reason=how.reason), meanwhile=_load_the_rest)
        undo.callback(_tidily, lambda: unmount(wanted.mountpoint, wanted.root, lazy=True))
    for warning in record.warnings:
        log.warning("%s", warning)
    if record.config is None:
        return ImageConfig()
    return parse_config(load_config(record.config.read_bytes()))


def _tidily(step: Callable[[], object]) -> None:
    """Take one thing away; what fails of that must not hide how the container ended, and is done later."""
    try:
        step()
    except NotMounted:
        pass
    except (LaunchError, OSError) as error:
        log.warning("could not tidy up after the container, the next run will: %s", error)


def _load_the_rest() -> None:
    """What is needed only when the mount is there; loading it costs nothing while we would wait for that."""
    import launch.containers.in_root
    import launch.containers.users  # noqa: F401


def _prepare(wanted: Wanted, config: ImageConfig, directory: Path, undo: ExitStack) -> dict[str, Any]:
    """Mount the writable layer and say what is to run on it."""
    from launch.containers.in_root import check_command, make_directory_in_root, mode_in_root, read_in_root
    from launch.containers.users import resolve_user

    with _opened(directory / "lower") as image:
        passwd, group = (read_in_root(image, file) for file in (b"/etc/passwd", b"/etc/group"))
        user = resolve_user(config.user if wanted.user is None else wanted.user, passwd, group)
        spec = runtime_spec(config, wanted, this_host(), user, directory / "merged")
        where = working_dir(config, wanted)
        search_path = next((line[5:] for line in spec["process"]["env"] if line.startswith("PATH=")), "")
        check_command(image, arguments(config, wanted)[0], search_path, where)
        mode = mode_in_root(image, os.fsencode(where))
    overlay.mount_overlay(directory)
    undo.callback(_tidily, lambda: overlay.unmount(directory / "merged"))
    if mode is None or not stat.S_ISDIR(mode):
        with _opened(directory / "merged") as container_root:
            make_directory_in_root(container_root, os.fsencode(where))
    return spec


def _write_spec(path: Path, spec: dict[str, Any]) -> None:
    try:
        with named(path):
            path.write_bytes(json.dumps(spec, ensure_ascii=False).encode())
    except UnicodeEncodeError as error:
        raise RunError(
            "cannot run the container: an argument, an environment value or the root's path is not UTF-8,"
            " which is all that the OCI runtime specification can carry"
        ) from error


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _signals_end_us() -> Iterator[None]:
    """Signals that would kill us outright become exits, so that whatever is there by then is taken away.

    Those that are ignored, as nohup has it, are ignored further.
    """

    def leave(signum: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    caught = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    killing = [signum for signum in caught if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, leave) for signum in killing}
    try:
        yield
    finally:
        for signum, former in before.items():
            with suppress(TypeError):
                signal.signal(signum, former)
