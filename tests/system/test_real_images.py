"""Images as people have them, converted, against what umoci unpacks of them: every attribute, every byte.

Debian's minimal system with a layer of `umoci insert`; a compiler, Python, numpy and pandas over it; a
node_modules tree of more than 20 000 files. They are made from package sources, with the ordinary clients.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from bench.demo_image import debian_sources
from bench.oci_directory import write_oci_directory
from bench.tar_difference import write_difference
from registry_client.platform import host_platform
from tests.builder.host_tree import differences, host_tree
from tests.builder.layouts import Published, convert_layout

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="umoci unpack keeps owners and devices only for root"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bootstrap(tmp_path_factory.mktemp("base"), "minbase")


def bootstrap(scratch: Path, name: str, *packages: str) -> Path:
    """The tar of a Debian system with *packages*."""
    scratch.chmod(0o755)
    made = scratch / f"{name}.tar"
    sources = scratch / "debian.list"
    sources.write_text("\n".join(debian_sources()) + "\n")
    release = min(line.split()[2] for line in debian_sources())
    wanted = [f"--include={','.join(packages)}"] if packages else []
    run("mmdebstrap", "--variant=minbase", *wanted, release, made, sources, TMPDIR=str(scratch))
    return made


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> None:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def write_image(where: Path, *layers: Path) -> None:
    write_oci_directory(
        where,
        name="app",
        layers=layers,
        config={"Cmd": ["/bin/true"]},
        architecture=host_platform().architecture,
        created="2023-11-14T22:13:20Z",
    )


def pack(folder: Path, tar: Path) -> Path:
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(folder, ".")
    return tar


def check(layout: Path, scratch: Path, *, files: int) -> None:
    """Fail if the converted image shows anything else than umoci unpacks, or fewer *files* than that."""
    began = int(time.time())
    run("umoci", "unpack", "--image", f"{layout}:app", scratch / "bundle")
    convert_layout(layout, scratch / "out")
    image = Published(scratch / "out")
    assert image.findings() == []
    shown = image.shown()
    assert len(shown) >= files
    assert differences(shown, host_tree(scratch / "bundle/rootfs"), unpacked_at=began) == []
    shutil.rmtree(scratch / "bundle")


def test_debian_with_a_layer_of_umoci_insert(base: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "in", base)
    (tmp_path / "add").mkdir()
    (tmp_path / "add/program").write_text("inserted by a tool that does not end its tars")
    (tmp_path / "add/link").symlink_to("program")
    run("umoci", "insert", "--image", f"{tmp_path / 'in'}:app", tmp_path / "add", "/opt/added")
    check(tmp_path / "in", tmp_path, files=8000)


def test_a_compiler_and_python_with_numpy_and_pandas(base: Path, tmp_path: Path) -> None:
    full = bootstrap(tmp_path, "full", "gcc", "python3")
    write_difference(base, full, tmp_path / "more.tar")
    target = tmp_path / "site/opt/site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target"]
    run(*pip, target, "numpy", "pandas")
    write_image(tmp_path / "in", base, tmp_path / "more.tar", pack(tmp_path / "site", tmp_path / "site.tar"))
    check(tmp_path / "in", tmp_path, files=14_000)


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_node_modules_of_more_than_20000_files(tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "package.json").write_text('{"name": "app", "version": "1.0.0"}')
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-progress"]
    run(*install, "react-scripts@5", cwd=app, npm_config_cache=str(tmp_path / "cache"))
    write_image(tmp_path / "in", pack(app, tmp_path / "app.tar"))
    check(tmp_path / "in", tmp_path, files=20_000)
