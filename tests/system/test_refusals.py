"""What cannot be done is refused in one sentence with its exit code, and nothing is left or lost."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chunk_store import ChunkStore
from launch.mountpoint import detach, mount_at
from registry_client.options import RegistryOptions
from tests.launch.published import publish
from tests.registry_client.sample import noise, sample_image
from tests.registry_client.sample import publish as publish_plain
from tests.support.command import COMMAND, await_last_writer, clear
from tests.support.debian_registry import DebianRegistry
from tests.support.images import image_of
from tests.support.reachable import AS_NOBODY, reachable_command
from tests.support.trees import file, tree
from tests.system.busybox_image import write_layout

pytestmark = pytest.mark.system

FUSE = ("mount", "--driver", "fuse")


class Place:
    """Images, a mountpoint and a state root below one directory; what it mounts is taken away at the end."""

    def __init__(self, base: Path, command: list[str]) -> None:
        self.program = command
        base.chmod(0o755)
        self.base, self.root, self.mountpoint = base, base / "root", base / "mountpoint"
        self.mountpoint.mkdir()
        self.image = image_of(tree(file(b"f", noise(300_000, 1))))
        self.lazy = f"oci:{base / 'lazy'}:v1"
        publish(self.image, self.lazy, base)
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(base)}

    def refuse(self, *words: str | Path, before: tuple[str, ...] = (), code: int, says: str) -> None:
        """*words* are refused with *code* and one sentence that matches *says*; nothing stays mounted."""
        named = [str(word) for word in words]
        if "--root" not in named:
            named += ["--root", str(self.root)] if named[0] not in ("convert", "check") else []
        done = subprocess.run(
            [*before, *self.program, *named],
            env=self.environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        told = [line for line in done.stderr.splitlines() if line.startswith("nopull: ")]
        assert done.returncode == code, done
        assert len(told) == 1 and done.stderr.splitlines()[-1] == told[0], done.stderr
        assert re.search(says, told[0]), told[0]
        assert "Errno" not in told[0] and "Traceback" not in done.stderr
        assert mount_at(self.mountpoint) is None
        assert not list(self.mountpoint.iterdir())

    def plain(self) -> str:
        """An ordinary image with one layer; its reference."""
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            member = tarfile.TarInfo("f")
            member.size = 500_000
            tar.addfile(member, io.BytesIO(noise(500_000, 3)))
        write_layout(self.base / "plain", {}, content.getvalue())
        return f"oci:{self.base / 'plain'}:v1"

    def damage(self, place: str, digest: str, change: Callable[[Path], None]) -> str:
        """A copy of the layout in which *change* was done to one blob; its reference."""
        copy = self.base / place
        subprocess.run(["cp", "-r", self.base / "lazy", copy], check=True)
        change(copy / "blobs" / "sha256" / digest)
        return f"oci:{copy}:v1"


@pytest.fixture
def place() -> Iterator[Place]:
    # Not `tmp_path`: the directories above that are root's alone.
    with (
        reachable_command() as command,
        tempfile.TemporaryDirectory(prefix="nopull-refusals-") as base,
    ):
        made = Place(Path(base), command)
        yield made
        clear(made.base, made.root)
        await_last_writer(made.base)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many KiB."""
    where = tmp_path / "disk"
    where.mkdir()

    def make(kibibytes: int) -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", where], check=True)
        return where

    yield make
    subprocess.run(["umount", "-l", where], check=False)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path: Path) -> None:
    with path.open("r+b") as opened:
        opened.seek(path.stat().st_size // 2)
        opened.write(b"other bytes than before")


def test_a_registry_that_is_away_or_does_not_know_us(place: Place) -> None:
    away = "127.0.0.1:1/app:v1"
    told = r"cannot reach registry 127.0.0.1:1 to read manifest app:v1: connection refused; is it running"
    for words in ((*FUSE, away, place.mountpoint), ("inspect", away), ("check", away)):
        place.refuse(*words, code=3, says=told)
    place.refuse("convert", away, f"oci:{place.base}/new:v1", code=3, says=told)
    assert not (place.base / "new").exists()
    with DebianRegistry(accounts={"alice": "right"}) as registry:
        reference = f"{registry.host}/app:v1"
        told = rf"registry {registry.host} does not let us read manifest app:v1: 401 .*; log in with docker"
        place.refuse(*FUSE, reference, place.mountpoint, code=4, says=told)
        place.environment["NOPULL_CREDS"] = "alice:planted"
        told = rf"{registry.host} does not let account 'alice' \(from \$NOPULL_CREDS\) .*: 401.*; log in a"
        place.refuse(*FUSE, reference, place.mountpoint, code=4, says=told)
        place.refuse("convert", place.lazy, reference, code=4, says=r"'alice' .*: 401")


@pytest.mark.parametrize("change", [cut, overwrite])
def test_a_damaged_layer_or_bootstrap(place: Place, change: Callable[[Path], None]) -> None:
    layout = place.base / "lazy"
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads((layout / "blobs" / entry["digest"].replace(":", "/")).read_bytes())
    bootstrap = manifest["layers"][-1]["digest"]
    damaged = place.damage("damaged", bootstrap.removeprefix("sha256:"), change)
    told = rf"blob {bootstrap} in .*damaged (has digest|ends after) .*; it is damaged, there or on"
    place.refuse(*FUSE, damaged, place.mountpoint, code=6, says=told)
    plain = place.plain()
    layer = max((place.base / "plain" / "blobs" / "sha256").iterdir(), key=lambda one: one.stat().st_size)
    change(layer)
    told = rf"blob sha256:{layer.name} in .*plain (has digest|ends after) .*; it is damaged"
    place.refuse("convert", plain, f"oci:{place.base}/new:v1", code=6, says=told)
    assert not (place.base / "new").exists()


@pytest.mark.parametrize("change", [cut, overwrite])
def test_a_damaged_chunk_is_an_error_of_the_read_and_of_check(
    place: Place, change: Callable[[Path], None]
) -> None:
    ((name, _),) = place.image.objects.items()
    damaged = place.damage("damaged", name, change)
    words = [*FUSE, "--no-background", damaged, str(place.mountpoint), "--root", str(place.root)]
    subprocess.run([*COMMAND, *words], check=True, capture_output=True, timeout=60)
    with pytest.raises(OSError, match="Input/output error"):
        (place.mountpoint / "f").read_bytes()
    (log,) = (place.root / "log").iterdir()
    assert re.search(rf"read /f: Chunk(Corrupt|Unavailable): .*{name}", log.read_text())
    detach(place.mountpoint, lazy=True)
    done = subprocess.run(
        [*COMMAND, "check", "--deep", damaged], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 6
    assert f"blob {name}: " in done.stdout + done.stderr


def test_an_unknown_media_type(place: Place) -> None:
    layer = noise(1000, 4)
    plain = sample_image(layer)
    document = json.loads(plain.manifest)
    document["layers"][0]["mediaType"] = "application/vnd.example.cake"
    raw = json.dumps(document).encode()
    publish_plain(replace(plain, manifest=raw), f"oci:{place.base / 'cake'}:v1", RegistryOptions())
    told = r"layer sha256:.* is of type 'application/vnd.example.cake', expected a tar, plain or compressed"
    place.refuse("convert", f"oci:{place.base}/cake:v1", f"oci:{place.base}/new:v1", code=6, says=told)
    told = r"is an ordinary image, not a lazily loadable one: convert it first with `nopull convert"
    place.refuse(*FUSE, f"oci:{place.base}/cake:v1", place.mountpoint, code=6, says=told)


def test_an_image_for_another_platform(place: Place) -> None:
    # Its tag's meaning may be known here by then, or not.
    told = r"image sha256:\w+: made for linux/amd64, asked for was linux/arm64"
    for driver in ("fuse", "erofs", "fuse"):
        words = ("mount", "--driver", driver, "--platform", "linux/arm64")
        place.refuse(*words, place.lazy, place.mountpoint, code=6, says=told)
    place.refuse("run", "--platform", "linux/arm64", place.lazy, "/f", code=125, says=told)
    for source in (place.plain(), place.lazy):
        words = ("convert", "--platform", "arm64", source, f"oci:{place.base}/new:v1")
        place.refuse(*words, code=6, says=told)
    told = r"'foo' is not a platform: expected for example linux/amd64"
    place.refuse(*FUSE, "--platform", "foo", place.lazy, place.mountpoint, code=2, says=told)


def test_a_mountpoint_that_cannot_be_one(place: Place) -> None:
    full, taken = place.base / "full", place.base / "taken"
    full.mkdir()
    (full / "precious").touch()
    taken.mkdir()
    told = r"cannot mount on .*/nowhere: no such directory; make it with mkdir"
    place.refuse(*FUSE, place.lazy, place.base / "nowhere", code=7, says=told)
    told = r"cannot mount on .*/full: it is not empty \(it has 'precious'\)"
    place.refuse(*FUSE, place.lazy, full, code=7, says=told)
    assert (full / "precious").exists()
    place.refuse(*FUSE, place.lazy, full / "precious", code=7, says=r"it is not a directory")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", taken], check=True)
    told = r"cannot mount on .*/taken: tmpfs is mounted there \(tmpfs\); unmount it first"
    place.refuse(*FUSE, place.lazy, taken, code=7, says=told)


def test_a_path_that_is_no_mount_names_the_mount_it_lies_in(place: Place) -> None:
    shown = place.base / "shown"
    shown.mkdir()
    mount = [*COMMAND, *FUSE, place.lazy, str(shown), "--root", str(place.root)]
    subprocess.run(mount, check=True, capture_output=True, timeout=60)
    above = rf"there, but above it, on {shown}"
    place.refuse("explain", shown / "f", code=5, says=rf"cannot explain .*/f: no mount .*{above}; `nopull")
    place.refuse("explain", "--trace", shown / "f", code=5, says=above)
    place.refuse("umount", shown / "f", code=5, says=rf"nothing of nopull is mounted {above}")
    place.refuse("explain", place.base / "lazy" / "index.json", code=5, says=r"nopull is there; `nopull ps`")


def test_an_empty_word_is_no_directory(place: Place) -> None:
    for words in ((*FUSE, place.lazy, ""), ("umount", ""), ("explain", "")):
        place.refuse(*words, code=2, says=r"empty word")


def test_what_has_to_be_installed_is_named(place: Place) -> None:
    empty = place.base / "bin"
    empty.mkdir()
    place.environment["PATH"] = str(empty)
    told = r"cannot run a container: no runc or crun in PATH; install the package runc or crun"
    place.refuse("run", "--driver", "fuse", place.lazy, "true", code=125, says=told)
    place.environment["NOPULL_ROOT"] = str(place.base / "theirs")
    place.mountpoint.chmod(0o777)
    (place.base / "theirs").mkdir(mode=0o777)
    (place.base / "theirs").chmod(0o777)
    told = r"mounting through FUSE without root: no fusermount3? here; install the package fuse3"
    words = (*FUSE, place.lazy, place.mountpoint, "--root", place.base / "theirs")
    place.refuse(*words, before=("/usr/bin/setpriv", *AS_NOBODY[1:]), code=7, says=told)


def test_no_permission(place: Place) -> None:
    mine = place.base / "mine"
    mine.mkdir(mode=0o700)
    told = r"cannot use .*mine.*: permission denied; run it as a user who may, or choose another place"
    words = (*FUSE, place.lazy, place.mountpoint)
    place.mountpoint.chmod(0o777)
    place.refuse(*words, "--root", mine / "root", before=(*AS_NOBODY,), code=8, says=told)
    place.mountpoint.chmod(0o755)
    theirs = place.base / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    (mine / "mountpoint").mkdir()
    told = r"cannot mount on .*/mine.*: permission denied; run it as a user who may, or name another dir"
    for unseen in (mine, mine / "mountpoint"):
        denied = (*FUSE, place.lazy, unseen, "--root", theirs)
        place.refuse(*denied, before=(*AS_NOBODY,), code=8, says=told)
    told = r"cannot mount on .*mountpoint: without root it must be a directory you can write"
    place.refuse(*words, "--root", theirs, before=(*AS_NOBODY,), code=7, says=told)
    (place.base / "lazy").chmod(0o700)
    told = r"cannot look at .*lazy/.*: permission denied; run it as a user who may, or name another place"
    place.refuse("inspect", place.lazy, "--root", theirs, before=(*AS_NOBODY,), code=8, says=told)
    told = r"cannot write an image layout to .*mine/new: permission denied; run it as a user"
    place.refuse("convert", place.lazy, f"oci:{mine}/new:v1", before=(*AS_NOBODY,), code=8, says=told)
    told = r"cannot run a container without root: use sudo"
    place.refuse("run", place.lazy, "true", "--root", theirs, before=(*AS_NOBODY,), code=125, says=told)


def test_a_mount_that_nobody_can_be_told_of_is_taken_away_again(place: Place) -> None:
    words = [*FUSE, place.lazy, str(place.mountpoint), "--root", str(place.base / "root")]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.returncode == 9
    assert done.stderr == "nopull: could not write to standard output: No space left on device\n"
    assert mount_at(place.mountpoint) is None


def test_a_place_that_cannot_hold_what_is_converted_breaks_no_image(place: Place) -> None:
    told = r"cannot write .*absent/new.tar: no such file or directory; name another place"
    place.refuse("convert", place.lazy, f"oci-archive:{place.base}/absent/new.tar", code=1, says=told)
    (place.base / "file").write_bytes(b"")
    told = r"cannot write an image layout to .*/file: file exists; name another place"
    place.refuse("convert", place.lazy, f"oci:{place.base}/file:v1", code=1, says=told)
    (place.base / "other").mkdir()
    (place.base / "other" / "thing").write_bytes(b"")
    told = r".*/other is not an OCI image layout and not empty \(it has 'thing'\); name an empty or a new"
    place.refuse("convert", place.lazy, f"oci:{place.base}/other:v1", code=1, says=told)
    # Before anything is fetched, not when all is done.
    told = r"cannot write the archive .*/other: is a directory; name another place"
    place.refuse("convert", place.lazy, f"oci-archive:{place.base}/other", code=1, says=told)
    assert [path.name for path in (place.base / "other").iterdir()] == ["thing"]


def test_a_read_only_disk_for_what_is_converted_is_no_matter_of_permission(
    place: Place, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(100)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    told = r"cannot write an image layout to .*disk/new: read-only file system; name another place$"
    place.refuse("convert", place.lazy, f"oci:{disk}/new:v1", code=1, says=told)


def test_a_store_that_can_only_be_read_is_not_full_for_who_pulls(
    place: Place, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(2000)
    root = disk / "root"
    subprocess.run([*COMMAND, "pull", place.lazy, "--root", str(root)], check=True, capture_output=True)
    for window in (root / "windows").glob("*/*"):
        window.unlink()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    words = [*COMMAND, "pull", place.lazy, "--root", str(root)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done
    told = r"nopull: cannot keep window \w+ in .*/windows: Read-only file system; choose another place"
    assert re.match(told, done.stderr.splitlines()[-1]), done.stderr
    told = r"opening the store .*other: Read-only file system; choose another with --root"
    place.refuse("pull", place.lazy, "--root", disk / "other", code=1, says=told)


@pytest.mark.parametrize("kibibytes", [8, 24, 40, 64])
def test_a_disk_without_room_for_what_a_mount_needs(
    place: Place, small_disk: Callable[[int], Path], kibibytes: int
) -> None:
    disk = small_disk(kibibytes)
    words = [*FUSE, "--no-background", place.lazy, str(place.mountpoint), "--root", str(disk / "root")]
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 0:
        # It fits; what does not is served from memory.
        assert (place.mountpoint / "f").read_bytes() == noise(300_000, 1)
        return
    assert done.returncode == 9, done
    told = r"nopull: (cannot write|opening the store) .*disk/root.*: [Nn]o space left on device \(.* free\); "
    assert re.match(told, done.stderr.splitlines()[-1]), done.stderr
    assert mount_at(place.mountpoint) is None


def test_a_disk_without_room_for_what_is_converted(
    place: Place, small_disk: Callable[[int], Path]
) -> None:
    source = place.plain()
    disk = small_disk(100)
    room = r"no space left on device \(0\.\d MB free\); free some there, or name another"
    told = rf"cannot write blob .* \(0\.\d MB\) to .*disk/new.*: {room}"
    place.refuse("convert", place.lazy, f"oci:{disk}/new:v1", code=9, says=told)
    told = rf"cannot write blobs/.* \(0\.\d MB\) to .*disk/new.tar.*: {room}"
    place.refuse("convert", place.lazy, f"oci-archive:{disk}/new.tar", code=9, says=told)
    assert not (disk / "new.tar").exists()
    told = r"files in .*disk: no space left \(0\.0 MB free\) behind 0\.\d MB of one of them; .*--work-dir"
    place.refuse("convert", "--work-dir", disk, source, f"oci:{place.base}/new:v1", code=9, says=told)


@pytest.mark.parametrize(
    "words", [["ps"], ["cache", "gc"], ["cache", "verify"], ["keeper", "status"], ["pull", "oci:/nowhere:1"]]
)
def test_a_root_of_another_user_is_no_empty_root(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name, reachable_command() as command:
        root = Path(name)  # `tmp_path` lies below what only root may enter
        root.chmod(0o755)
        ChunkStore(root).close()
        for directory in ("mounts", "keeper"):
            (root / directory).mkdir(mode=0o700)
        done = subprocess.run(
            [*AS_NOBODY, *command, *words, "--root", root], capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stdout) == (8, ""), done.stderr
    assert "ermission denied" in done.stderr
