"""Where starts are compared: a registry that holds the image in both forms, and the ways to reach it.

As root the registry lives behind an emulated link and "loopback" is its own side of it, so both ways use one
reference and one registry. Without root it listens on loopback and the link is a proxy. Everything here is
stopped and removed when the `with` block ends, however it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.child import bound_command, command_in, run_command
from bench.containerd import end_shims, mounts_below
from bench.errors import BenchError
from bench.link import DEVICE, open_link
from bench.link_schedule import DEMO_LINK
from bench.proxy_link import open_proxy
from bench.registry_server import RegistryServer
from bench.result import Image
from chunk_store.keeper_client import KEEPER, SOCKET
from launch.kernel_mounts.keeper_start import end_keeper
from registry_client.transport.site import is_loopback, split_port

LOOPBACK = "loopback"
DEMO_ROUTE = "20ms-200mbit"
PLAIN_TAG = "plain"
LAZY_TAG = "lazy"
REPOSITORY = "demo/image"
# Short, because sockets lie below it; not /tmp, which may be memory, because a full pull writes much.
SCRATCH_PARENT = Path("/var/tmp")
SCRATCH = "np"


@dataclass(frozen=True, slots=True)
class Route:
    """One way from a client to the registry: where the client runs and how it names the registry."""

    name: str
    namespace: str | None
    host: str
    bits_per_second: float | None


@dataclass(frozen=True, slots=True)
class Stage:
    """The running registry, the routes to it, and a scratch directory for what clients keep."""

    registry: RegistryServer
    routes: tuple[Route, ...]
    scratch: Path

    @property
    def repository(self) -> str:
        """The name both images have in the registry."""
        return REPOSITORY

    def plain(self, route: Route) -> str:
        """Return `host/repository:tag` of the original image."""
        return f"{route.host}/{REPOSITORY}:{PLAIN_TAG}"

    def lazy(self, route: Route) -> str:
        """Return `host/repository:tag` of the converted image."""
        return f"{route.host}/{REPOSITORY}:{LAZY_TAG}"

    def wire_bytes(self) -> int | None:
        """Return how many bytes have left the registry's end of the link, with headers; None without one."""
        counts = Path(f"/proc/{self.registry.pid}/net/dev").read_text(encoding="ascii")
        for line in counts.splitlines():
            name, _, fields = line.partition(":")
            if name.strip() == DEVICE:
                return int(fields.split()[8])
        return None


@contextlib.contextmanager
def open_stage(routes: Sequence[str]) -> Iterator[Stage]:
    """Start the registry and what the named routes need.

    Raises:
        ProgramMissing: a program is not installed.
        BenchError: something did not start.
    """
    with contextlib.ExitStack() as undo:
        remove_stale()
        scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-", dir=SCRATCH_PARENT))
        undo.callback(remove_scratch, scratch)
        content = scratch / "registry"
        if os.geteuid() == 0:
            link = undo.enter_context(open_link(DEMO_LINK))
            registry = RegistryServer(content, address=link.server_address, namespace=link.server)
            undo.callback(registry.stop)
            known = {
                LOOPBACK: Route(LOOPBACK, link.server, registry.host, None),
                DEMO_ROUTE: Route(DEMO_ROUTE, link.client, registry.host, DEMO_LINK.bits_per_second),
            }
        else:
            registry = RegistryServer(content)
            undo.callback(registry.stop)
            known = {LOOPBACK: Route(LOOPBACK, None, registry.host, None)}
            if DEMO_ROUTE in routes:
                proxy = undo.enter_context(open_proxy(registry.host, DEMO_LINK))
                known[DEMO_ROUTE] = Route(DEMO_ROUTE, None, proxy, DEMO_LINK.bits_per_second)
        yield Stage(registry, tuple(known[name] for name in routes), scratch)


def remove_stale() -> None:
    """Remove the scratch directories of owners that were killed."""
    for scratch in SCRATCH_PARENT.glob(f"{SCRATCH}[0-9]*-*"):
        owner = scratch.name.removeprefix(SCRATCH).partition("-")[0]
        if scratch.stat().st_uid == os.geteuid() and not Path("/proc", owner).exists():
            remove_scratch(scratch)


def remove_scratch(scratch: Path) -> None:
    """End containers and unmount what is still mounted below the scratch directory, and remove it."""
    end_shims(scratch)
    for place in (scratch, *scratch.glob("*")):
        if (place / KEEPER / SOCKET).exists():
            end_keeper(place)
    for mountpoint in reversed(mounts_below(scratch)):
        detach = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
        subprocess.run([*detach, str(mountpoint)], stderr=subprocess.DEVNULL, check=False)
    shutil.rmtree(scratch, ignore_errors=True)


def nopull_command(*words: str) -> list[str]:
    """Return a command of the nopull that is installed beside this interpreter."""
    script = Path(sys.executable).with_name("nopull")
    return [str(script), *words] if script.exists() else [sys.executable, "-P", "-m", "nopull", *words]


def publish(stage: Stage, source: str) -> None:
    """Copy the original image into the registry; *source* is any reference skopeo reads.

    Raises:
        BenchError: it could not be read or pushed.
    """
    layout = source
    if not source.startswith("oci:"):
        # Two steps: the registry is behind a closed namespace, from which nothing outside can be reached.
        layout = f"oci:{stage.scratch / 'fetched'}:image"
        run_command(
            ["skopeo", "copy", *skopeo_options(source), source, layout], doing=f"fetching {source}"
        )
    target = f"docker://{stage.registry.host}/{REPOSITORY}:{PLAIN_TAG}"
    push = ["skopeo", "copy", "--dest-tls-verify=false", layout, target]
    run_command(command_in(stage.registry.namespace, push), doing=f"pushing {source}")


def skopeo_options(source: str) -> list[str]:
    """What has skopeo read *source* as nopull does: registries on loopback addresses may speak HTTP."""
    host = source.removeprefix("docker://").partition("/")[0]
    is_near = source.startswith("docker://") and is_loopback(split_port(host)[0])
    return ["--src-tls-verify=false"] if is_near else []


def convert(stage: Stage) -> None:
    """Run `nopull convert` from registry to registry, on the registry's side of the link, progress shown.

    Raises:
        BenchError: it failed; it has said why.
    """
    tags = [f"docker://{stage.registry.host}/{REPOSITORY}:{tag}" for tag in (PLAIN_TAG, LAZY_TAG)]
    command = nopull_command("convert", "--plain-http", *tags)
    with subprocess.Popen(
        bound_command(command_in(stage.registry.namespace, command)),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        start_new_session=True,
    ) as running:
        try:
            status = running.wait()
        except BaseException:
            running.terminate()
            raise
    if status != 0:
        raise BenchError(f"converting the image: nopull convert ended with {status}")


def image_command(stage: Stage) -> list[str]:
    """Return what the original image runs by itself: its entrypoint and command."""
    raw = run_command(_skopeo_inspect(stage, PLAIN_TAG, "--config"), doing="reading the image's config")
    config = json.loads(raw).get("config") or {}
    return [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]


def describe_image(stage: Stage, reference: str) -> Image:
    """Return what the registry holds: sizes of both forms as their manifests say."""
    plain, lazy = (_inspect(stage, tag) for tag in (PLAIN_TAG, LAZY_TAG))
    return Image(
        reference=reference,
        layers=len(plain["layers"]),
        compressed_bytes=sum(layer["size"] for layer in plain["layers"]),
        converted_digest=_digest(stage, LAZY_TAG),
        converted_bytes=sum(layer["size"] for layer in lazy["layers"]),
    )


def _inspect(stage: Stage, tag: str) -> dict[str, list[dict[str, int]]]:
    raw = run_command(_skopeo_inspect(stage, tag, "--raw"), doing=f"reading the manifest of {tag}")
    found: dict[str, list[dict[str, int]]] = json.loads(raw)
    return found


def _digest(stage: Stage, tag: str) -> str:
    return run_command(_skopeo_inspect(stage, tag, "--format={{.Digest}}"), doing="reading a digest").strip()


def _skopeo_inspect(stage: Stage, tag: str, form: str) -> list[str]:
    reference = f"docker://{stage.registry.host}/{REPOSITORY}:{tag}"
    command = ["skopeo", "inspect", "--tls-verify=false", form, reference]
    return command_in(stage.registry.namespace, command)
