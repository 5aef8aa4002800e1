"""Every image of Nydus' own tools by command: checked, inspected, and mounted through both drivers.

What each must show was printed by those tools, and compared with their own mounts and the kernel's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from launch.fuse_mounts.server import start_mount
from launch.images.check_verb import check
from launch.images.image_request import ImageRequest
from launch.images.inspect_verb import inspect
from launch.mount_request import MountRequest
from launch.mounting import mount_image
from launch.umount import unmount
from registry_client import open_destination
from registry_client.digest import Digest
from registry_client.manifest import Descriptor
from registry_client.media_type import MediaType
from registry_client.options import RegistryOptions
from registry_client.platform import parse_platform
from registry_client.reference import parse_reference
from tests.support.debian_registry import DebianRegistry
from tests.support.nydus_vectors import Image, all_images, one_vector, path_of, vector_images

pytestmark = pytest.mark.system

CHECKOUT = Path(__file__).parents[2]

TYPES = {
    "dir": stat.S_IFDIR,
    "file": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "chr": stat.S_IFCHR,
    "blk": stat.S_IFBLK,
}
# As the tools misspell them.
FLAGS = {"TARTFS_MODE": "TARFS_MODE", "ENCRYPTION_ASE_128_XTS": "ENCRYPTION_AES_128_XTS"}

every_image = pytest.mark.parametrize("image", all_images())


def named(image: Image) -> tuple[str, list[str]]:
    """What the image is called on the command line, and the options that go with it."""
    if "manifest" not in image.expect:
        return f"rafs:{image.folder / 'image.boot'}", ["--blob-dir", str(image.folder / "blobs")]
    platform = image.expect["manifest"].get("platform", {"os": "linux", "architecture": "amd64"})
    options = ["--platform", f"{platform['os']}/{platform['architecture']}"]
    return f"oci:{image.folder / 'layout'}:nydus", options


def request(image: Image, mountpoint: Path, root: Path, driver: str) -> MountRequest:
    name, options = named(image)
    mountpoint.mkdir()
    wanted = ImageRequest(
        parse_reference(name),
        RegistryOptions(),
        platform=parse_platform(options[1]) if options[0] == "--platform" else None,
        blob_dir=Path(options[1]) if options[0] == "--blob-dir" else None,
    )
    return MountRequest(wanted, mountpoint, root, driver=driver)


def mount(asked: MountRequest) -> None:
    mount_image(asked, foreground=False, on_ready=lambda _: None)


@pytest.fixture(params=["fuse", "erofs"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@every_image
def test_check_finds_nothing_wrong_and_verifies_every_chunk(image: Image) -> None:
    name, options = named(image)
    done = CliRunner().invoke(check, [name, "--deep", "--json", *options])
    verdict = json.loads(done.stdout)
    assert (verdict["findings"], done.exit_code) == ([], 0)
    assert verdict["blobs"] == len(image.expect["blobs"])
    assert verdict["chunks_verified"] == verdict["chunks"]
    if "TARFS" not in str(image.expect["blobs"]):
        assert verdict["chunks"] == sum(blob["chunk_count"] for blob in image.expect["blobs"])


@every_image
def test_inspect_tells_the_blob_table_as_the_tool_did(image: Image, tmp_path: Path) -> None:
    name, options = named(image)
    done = CliRunner().invoke(inspect, [name, "--json", "--root", str(tmp_path), *options])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    expected = image.expect["image"]
    assert (facts["inodes"], facts["chunk_size"]) == (expected["inodes"], expected["chunk_size"])
    assert facts["root_nid"] == expected["root_nid"]
    assert set(facts["flags"]) == {FLAGS.get(flag, flag) for flag in expected["flags"]}
    assert facts["prefetch"] == expected["prefetch"]
    for blob, wanted in zip(facts["blobs"], image.expect["blobs"], strict=True):
        table = blob["table"]
        wanted = {key: value for key, value in wanted.items() if key not in ("data_size", "file", "key")}
        wanted["cipher"] = {"None": "none", "Aes128Xts": "aes_128_xts"}[wanted["cipher"]]
        wanted["digester"] = wanted["digester"].lower()
        wanted["features"] = sorted(wanted["features"])
        assert {key: table[key] for key in wanted} == wanted


@every_image
def test_a_mount_shows_every_path_as_it_must_be(image: Image, driver: str, tmp_path: Path) -> None:
    asked = request(image, tmp_path / "mountpoint", tmp_path / "root", driver)
    mount(asked)
    try:
        shown = dict(rows(asked.mountpoint))
        wanted = {path_of(row): row for row in image.files}
        assert sorted(shown) == sorted(wanted)
        for path, row in wanted.items():
            assert shown[path] == expected_row(row, shown[path]), path
    finally:
        unmount(asked.mountpoint, asked.root)


def rows(mountpoint: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Every path below *mountpoint* with what a row of the expectation says."""
    base = os.fsencode(mountpoint)
    first_names: dict[int, str] = {}
    paths = [b"/"]
    for folder, folders, files in os.walk(base):
        paths += [folder[len(base) :] + b"/" + name for name in folders + files]
    for path in sorted(paths):
        name = base + path.rstrip(b"/")
        found = os.lstat(name)
        seconds, nanoseconds = divmod(found.st_mtime_ns, 10**9)
        row: dict[str, Any] = {
            "type": stat.S_IFMT(found.st_mode),
            "mode": f"{stat.S_IMODE(found.st_mode):04o}",
            "uid": found.st_uid,
            "gid": found.st_gid,
            "mtime": [seconds, nanoseconds],
            "nlink": found.st_nlink,
            "nid": found.st_ino,
        }
        names = os.listxattr(name, follow_symlinks=False)
        if names:
            row["xattrs"] = {key: os.getxattr(name, key, follow_symlinks=False).hex() for key in names}
        if stat.S_ISREG(found.st_mode):
            row["size"] = found.st_size
            row["sha256"] = hashlib.sha256(Path(os.fsdecode(name)).read_bytes()).hexdigest()
        elif stat.S_ISLNK(found.st_mode):
            row["target"] = os.fsencode(Path(os.fsdecode(name)).readlink())
        elif stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
            row["rdev"] = [os.major(found.st_rdev), os.minor(found.st_rdev)]
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            row["hardlink"] = first_names.setdefault(found.st_ino, os.fsdecode(path))
        yield path, row


def expected_row(row: dict[str, Any], shown: dict[str, Any]) -> dict[str, Any]:
    """The expectation in the spelling of `rows`."""
    wanted = {key: value for key, value in row.items() if key != "path"}
    wanted["type"] = TYPES[row["type"]]
    if row["type"] == "symlink":
        wanted["mode"] = shown["mode"]
        wanted["target"] = path_of({"path": row["target"]})
        wanted.pop("size")
    if row["type"] not in ("dir", "file", "symlink"):
        wanted.pop("size", None)
    if "hardlink" in row:
        wanted["hardlink"] = os.fsdecode(path_of({"path": row["hardlink"]}))
    else:
        # Separate inodes may carry the link count of the file they were copied from.
        shown.pop("hardlink", None)
    return wanted


@pytest.mark.parametrize("name", ["tar-inline", "tar-inline-notoc"])
def test_a_layer_object_is_mounted_by_the_bootstrap_inside_it(name: str, tmp_path: Path) -> None:
    image = one_vector(name)
    (source,) = (image.folder / "blobs").iterdir()
    # Under its digest, as in a folder of blobs, and under a name that says nothing.
    for number, path in enumerate((source, tmp_path / "layer")):
        if path != source:
            shutil.copyfile(source, path)
        mountpoint = tmp_path / f"mountpoint-{number}"
        mountpoint.mkdir()
        wanted = ImageRequest(parse_reference(f"rafs:{path}"), RegistryOptions())
        asked = MountRequest(wanted, mountpoint, tmp_path / "root", driver="fuse")
        start_mount(asked)
        try:
            shown = dict(rows(mountpoint))
            contents = {path_of(row): row["sha256"] for row in image.files if "sha256" in row}
            assert {at: row["sha256"] for at, row in shown.items() if "sha256" in row} == contents
        finally:
            unmount(mountpoint, asked.root)


@pytest.mark.parametrize("verb", [["check"], ["inspect"], ["mount"]])
def test_a_legacy_bootstrap_is_refused_by_name(verb: list[str], tmp_path: Path) -> None:
    # Its magic is where version 6 has zeros.
    (tmp_path / "v5.boot").write_bytes((0x52414653).to_bytes(4, "little") + bytes(8188))
    (tmp_path / "mountpoint").mkdir()
    command = [sys.executable, str(CHECKOUT / "nopull.py"), *verb, f"rafs:{tmp_path / 'v5.boot'}"]
    if verb == ["mount"]:
        command += [str(tmp_path / "mountpoint"), "--root", str(tmp_path / "root")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "RAFS v5" in done.stdout + done.stderr) == (6, True), done


def test_a_reference_image_is_read_from_the_layers_of_the_ordinary_one_in_a_registry(tmp_path: Path) -> None:
    (image,) = vector_images("nydusify-ociref")
    manifest = image.expect["manifest"]
    objects = image.folder / "layout" / "blobs" / "sha256"
    with DebianRegistry() as registry:
        name = f"docker://{registry.host}/app:nydus"
        destination = open_destination(parse_reference(name), RegistryOptions())
        for path in objects.iterdir():
            digest = Digest(f"sha256:{path.name}")
            descriptor = Descriptor(MediaType.OCI_LAYER_GZIP, digest, path.stat().st_size)
            destination.put_blob(descriptor, lambda path=path: path.open("rb"))  # type: ignore[misc]
        raw = (objects / manifest["digest"].removeprefix("sha256:")).read_bytes()
        destination.put_manifest(raw, MediaType.OCI_MANIFEST, tag="nydus")
        destination.close()
        wanted = ImageRequest(parse_reference(name), RegistryOptions())
        asked = MountRequest(wanted, tmp_path / "mountpoint", tmp_path / "root", driver="fuse")
        asked.mountpoint.mkdir()
        mount(asked)
        try:
            shown = dict(rows(asked.mountpoint))
            assert {path: row["sha256"] for path, row in shown.items() if "sha256" in row} == {
                path_of(row): row["sha256"] for row in image.files if "sha256" in row
            }
        finally:
            unmount(asked.mountpoint, asked.root)
