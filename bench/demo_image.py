"""Builds the demo's image from Debian packages: an ordinary base, an ordinary Python, a small program.

Three layers: Debian's minimal system; what Python's dependency closure adds to it; the program, with a
whiteout and a hard link into the layers below. Nothing is padded or trimmed: the documentation is there as
Debian installs it. Packages come from wherever this machine's apt gets them. Built once and kept.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import oci_directory, tar_difference
from bench.child import run_command, start_child, stop_session, tail
from bench.errors import BenchError
from registry_client.platform import host_platform

IMAGE_NAME = "demo"
READY = "READY"
COMMAND = ("/usr/bin/python3", "/opt/app/main.py")
PROGRAM = Path(__file__).with_name("demo_program.py")
EPOCH = 1_700_000_000  # the time of what we write ourselves
DAY_SECONDS = 86400
CREATED = "2023-11-14T22:13:20Z"
SCRATCH = "building-"
BUILD_SECONDS = 1200.0
HIDDEN = "etc/motd"  # of the lowest layer (base-files)
LINKED = "./usr/bin/pydoc3.11"  # of the middle one


@dataclass(frozen=True, slots=True)
class DemoImage:
    """An `oci:` layout on this machine and the name of the image in it."""

    layout: Path
    name: str

    @property
    def reference(self) -> str:
        """How skopeo and nopull write it."""
        return f"oci:{self.layout}:{self.name}"


def cache_directory() -> Path:
    """Return where built images are kept: .cache of the checkout, else the user's cache folder."""
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "setup.py").is_file():
        return checkout / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nopull-demo"


def recipe_key() -> str:
    """Return a name for what would be built now: recipe, program and package sources decide."""
    recipe = hashlib.sha256()
    for module in (Path(__file__), PROGRAM, Path(tar_difference.__file__), Path(oci_directory.__file__)):
        recipe.update(module.read_bytes())
    recipe.update("\n".join(debian_sources()).encode())
    recipe.update(str(host_platform()).encode())
    return recipe.hexdigest()[:16]


def build_demo_image(cache: Path, *, tell: Callable[[str], None]) -> DemoImage:
    """Return the demo image, building it below *cache* unless it is there already (about a minute).

    *tell* gets one line per step. A build that is interrupted leaves nothing under the final name.

    Raises:
        ProgramMissing: mmdebstrap is not installed.
        BenchError: not a Debian machine, or a package could not be had.
    """
    layout = cache / f"demo-image-{recipe_key()}"
    if layout.is_dir():
        return DemoImage(layout, IMAGE_NAME)
    cache.mkdir(parents=True, exist_ok=True)
    remove_leftovers(cache)
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-", dir=cache) as scratch_name:
        scratch = Path(scratch_name)
        scratch.chmod(0o755)  # mmdebstrap without root works as another user
        tell("bootstrapping Debian twice, without and with Python")
        made = bootstrap(scratch)
        tell("writing three layers")
        base, full = (tar.with_suffix(".clamped") for tar in made)
        # Packages' files are older than this day; what their installation generated gets one time for all.
        today = int(time.time()) // DAY_SECONDS * DAY_SECONDS
        for source, target in zip(made, (base, full), strict=True):
            tar_difference.clamp_times(source, target, latest=today)
        python, app = scratch / "python.tar", scratch / "app.tar"
        tar_difference.write_difference(base, full, python)
        write_app_layer(app, full)
        platform = host_platform()
        oci_directory.write_oci_directory(
            scratch / "layout",
            name=IMAGE_NAME,
            layers=[base, python, app],
            config={"Cmd": list(COMMAND), "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "WorkingDir": "/"},
            architecture=platform.architecture,
            created=CREATED,
        )
        for older in cache.glob("demo-image-*"):
            shutil.rmtree(older)
        (scratch / "layout").rename(layout)
    return DemoImage(layout, IMAGE_NAME)


def remove_leftovers(cache: Path) -> None:
    """Remove what builds left that were killed."""
    for scratch in cache.glob(f"{SCRATCH}*"):
        if not Path("/proc", scratch.name.removeprefix(SCRATCH).partition("-")[0]).exists():
            shutil.rmtree(scratch, ignore_errors=True)


def debian_sources() -> list[str]:
    """Return this machine's own package sources of Debian, one line of a sources.list each.

    Raises:
        BenchError: apt knows none.
    """
    wanted = ["Created-By: Packages", "Origin: Debian"]
    fields = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    told = run_command(
        ["apt-get", "indextargets", "--format", fields, *wanted], doing="asking apt for its sources"
    )
    if not told.strip():
        raise BenchError(
            "building the demo image: apt has no index of a Debian archive; "
            "run `apt-get update` on a Debian machine, or give an image with --image"
        )
    return sorted(set(told.splitlines()))


def bootstrap(scratch: Path) -> tuple[Path, Path]:
    """Make two root file systems side by side; return their tar files, without and with Python."""
    sources = scratch / "debian.list"
    sources.write_text("\n".join(debian_sources()) + "\n", encoding="utf-8")
    release = min(line.split()[2] for line in debian_sources())  # "bookworm" before "bookworm-updates"
    # Not SOURCE_DATE_EPOCH: with it Python makes byte code that is checked against its source's bytes, and
    # every start would read both.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    wanted = {"base": [], "full": ["--include=python3"]}
    with ExitStack() as undo:
        children: dict[str, subprocess.Popen[bytes]] = {}
        for name, extra in wanted.items():
            target = [release, str(scratch / f"{name}.tar"), str(sources)]
            children[name] = start_child(
                ["mmdebstrap", "--quiet", "--variant=minbase", *extra, *target],
                stdout=scratch / f"{name}.log",
                environment=environment,
            )
            undo.callback(stop_session, children[name], seconds=30.0)  # it unmounts and removes on SIGTERM
        deadline = time.monotonic() + BUILD_SECONDS
        for name, child in children.items():
            try:
                status = child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired as error:
                raise BenchError(f"bootstrapping Debian: not done after {BUILD_SECONDS:.0f} s") from error
            if status != 0:
                words = tail(scratch / f"{name}.log")
                raise BenchError(f"bootstrapping Debian: mmdebstrap ended with {status}: {words}{_advice()}")
    return scratch / "base.tar", scratch / "full.tar"


def _advice() -> str:
    if os.geteuid() == 0:
        return ""
    return (
        "; without root it needs user namespaces and subordinate ids in /etc/subuid and /etc/subgid "
        "(usermod --add-subuids), or give an image with --image"
    )


def write_app_layer(layer: Path, below: Path) -> None:
    """Write the uppermost layer: the program, a hard link to a file below, a whiteout of another one.

    The linked file is in the layer once more, from the tar *below*: so do build tools write such a link, and
    containerd's overlay snapshotter refuses one whose target is in a lower layer only.
    """
    program = PROGRAM.read_bytes()
    with tarfile.open(below) as lower, tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as tar:
        for directory in ("opt", "opt/app"):
            tar.addfile(_member(directory, tarfile.DIRTYPE, 0o755))
        tar.addfile(
            _member("opt/app/main.py", tarfile.REGTYPE, 0o644, size=len(program)), io.BytesIO(program)
        )
        tar.addfile(lower.getmember(LINKED), lower.extractfile(LINKED))
        tar.addfile(_member("opt/app/pydoc", tarfile.LNKTYPE, 0o755, target=LINKED))
        tar.addfile(tar_difference.whiteout(HIDDEN))


def _member(name: str, kind: bytes, mode: int, *, size: int = 0, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size, member.linkname, member.mtime = kind, mode, size, target, EPOCH
    return member
