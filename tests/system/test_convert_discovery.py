"""Ordinary clients pull the ordinary image from an index that carries the converted one as well."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import nopull
from bench.containerd import Containerd
from builder.image_documents import NYDUS_BOOTSTRAP
from registry_client.digest import Digest
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.registries.registry_source import RegistrySource
from tests.builder.layouts import Layout
from tests.support.debian_registry import DebianRegistry
from tests.support.trees import directory, file, layer_tar, tree

pytestmark = pytest.mark.system

LAYERS = [
    layer_tar([tree(directory(b"bin", file(b"sh", b"shell" * 5000, mode=0o755)))]),
    layer_tar([tree(file(b"app", b"app" * 90_000))]),
]


@pytest.fixture
def registry() -> Iterator[DebianRegistry]:
    with DebianRegistry() as running:
        yield running


@pytest.fixture
def source(registry: DebianRegistry, tmp_path: Path) -> str:
    """The digest of an ordinary image `app:1` in the registry."""
    digest: str = Layout(tmp_path / "in").add_image(LAYERS)["digest"]
    copy = ["skopeo", "copy", "--dest-tls-verify=false", f"oci:{tmp_path / 'in'}:app"]
    subprocess.run([*copy, f"docker://{registry.host}/app:1"], check=True, capture_output=True)
    return digest


@pytest.mark.parametrize("spelling", ["artifact-type", "os-features"])
@pytest.mark.parametrize("name", ["app:both", "elsewhere/app:1"])
def test_skopeo_and_containerd_get_the_ordinary_image_and_nopull_the_converted_one(
    registry: DebianRegistry, source: str, tmp_path: Path, spelling: str, name: str
) -> None:
    image = f"{registry.host}/{name}"
    assert nopull.main(["convert", "--index", spelling, f"{registry.host}/app:1", image]) == 0

    copy = ["skopeo", "copy", "--src-tls-verify=false", f"docker://{image}", f"oci:{tmp_path / 'got'}:x"]
    subprocess.run(copy, check=True, capture_output=True)
    assert json.loads((tmp_path / "got/index.json").read_text())["manifests"][0]["digest"] == source

    with tempfile.TemporaryDirectory(prefix="nc") as short, Containerd(Path(short, "c")) as containerd:
        subprocess.run(containerd.pull_command(image), check=True, capture_output=True)
        stored = subprocess.run(containerd.ctr("content", "ls", "-q"), check=True, capture_output=True)
        assert source in stored.stdout.decode().split()
        mount = containerd.ctr("image", "mount", image, f"{short}/m")
        Path(short, "m").mkdir()
        subprocess.run(mount, check=True, capture_output=True)
        assert Path(short, "m/app").read_bytes() == b"app" * 90_000
        subprocess.run(containerd.ctr("image", "unmount", f"{short}/m"), check=True, capture_output=True)

    assert nopull.main(["check", "--deep", image, "--against", f"{registry.host}/app:1"]) == 0


def test_the_converted_image_is_found_from_its_source(registry: DebianRegistry, source: str) -> None:
    image = f"{registry.host}/app:1-lazy"
    assert nopull.main(["convert", "--referrer", f"{registry.host}/app:1", image]) == 0
    opened = RegistrySource(parse_reference(image), RegistryOptions())
    try:
        (referrer,) = opened.referrers(Digest(source))
        assert referrer.digest == opened.resolve().digest
        manifest = json.loads(opened.manifest(referrer).raw)
    finally:
        opened.close()
    assert manifest["subject"]["digest"] == source
    assert manifest["layers"][-1]["annotations"][NYDUS_BOOTSTRAP] == "true"
