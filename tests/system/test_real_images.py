"""Images as people have them, converted, against what umoci unpacks of them: every attribute, every byte.

Debian's minimal system with a layer of `umoci insert`; a compiler, Python, numpy and pandas over it; a
node_modules tree of more than 20 000 files. They are made from package sources, with the ordinary clients.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from bench.demo_image import debian_sources
from bench.oci_directory import write_oci_directory
from bench.tar_difference import write_difference
from registry_client.platform import host_platform
from tests.builder.host_tree import differences, host_tree
from tests.builder.layouts import Published, convert_layout
from tests.support.command import call

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="umoci unpack keeps owners and devices only for root"),
]


class Materials(NamedTuple):
    """What images are made of, on its way: most of the time package sources are waited for."""

    base: Future[Path]  # a tar of Debian's minimal system
    full: Future[Path]  # the same with a compiler and Python
    site: Future[Path]  # a tar of numpy and pandas, in opt/site
    app: Future[Path]  # a tar of an application with a node_modules tree


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Materials]:
    with ThreadPoolExecutor(4) as pool:
        scratch = tmp_path_factory.mktemp
        yield Materials(
            base=pool.submit(bootstrap, scratch("base"), "minbase"),
            full=pool.submit(bootstrap, scratch("full"), "full", "gcc", "python3"),
            site=pool.submit(python_site, scratch("site")),
            app=pool.submit(node_application, scratch("app")),
        )


def bootstrap(scratch: Path, name: str, *packages: str) -> Path:
    """The tar of a Debian system with *packages*."""
    scratch.chmod(0o755)
    made = scratch / f"{name}.tar"
    sources = scratch / "debian.list"
    sources.write_text("\n".join(debian_sources()) + "\n")
    release = min(line.split()[2] for line in debian_sources())
    wanted = [f"--include={','.join(packages)}"] if packages else []
    call("mmdebstrap", "--variant=minbase", *wanted, release, made, sources, TMPDIR=str(scratch))
    return made


def python_site(scratch: Path) -> Path:
    target = scratch / "site/opt/site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target"]
    call(*pip, target, "numpy", "pandas")
    return pack(scratch / "site", scratch / "site.tar")


def node_application(scratch: Path) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    app = scratch / "app"
    app.mkdir()
    (app / "package.json").write_text('{"name": "app", "version": "1.0.0"}')
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-progress"]
    call(*install, "react-scripts@5", cwd=app, npm_config_cache=str(scratch / "cache"))
    return pack(app, scratch / "app.tar")


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
    with ThreadPoolExecutor(1) as beside:
        unpacked = beside.submit(call, "umoci", "unpack", "--image", f"{layout}:app", scratch / "bundle")
        convert_layout(layout, scratch / "out")
        unpacked.result()
    image = Published(scratch / "out")
    assert image.findings() == []
    shown = image.shown()
    assert len(shown) >= files
    assert differences(shown, host_tree(scratch / "bundle/rootfs"), unpacked_at=began) == []
    shutil.rmtree(scratch / "bundle")


def test_debian_with_a_layer_of_umoci_insert(materials: Materials, tmp_path: Path) -> None:
    write_image(tmp_path / "in", materials.base.result())
    (tmp_path / "add").mkdir()
    (tmp_path / "add/program").write_text("inserted by a tool that does not end its tars")
    (tmp_path / "add/link").symlink_to("program")
    call("umoci", "insert", "--image", f"{tmp_path / 'in'}:app", tmp_path / "add", "/opt/added")
    check(tmp_path / "in", tmp_path, files=8000)


def test_a_compiler_and_python_with_numpy_and_pandas(materials: Materials, tmp_path: Path) -> None:
    base = materials.base.result()
    write_difference(base, materials.full.result(), tmp_path / "more.tar")
    write_image(tmp_path / "in", base, tmp_path / "more.tar", materials.site.result())
    check(tmp_path / "in", tmp_path, files=14_000)


def test_node_modules_of_more_than_20000_files(materials: Materials, tmp_path: Path) -> None:
    write_image(tmp_path / "in", materials.app.result())
    check(tmp_path / "in", tmp_path, files=20_000)
