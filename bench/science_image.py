"""The demo's image with numpy, pandas and scikit-learn on top: one more layer, of wheels from PyPI.

What many data programs start with: 80 MB more compressed, libraries of tens of megabytes, of which a start
touches a part. Built once and kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import oci_directory
from bench.child import run_command
from bench.demo_image import EPOCH, SCRATCH, DemoImage

IMAGE_NAME = "science"
PACKAGES = ("numpy==2.3.4", "pandas==2.3.3", "scikit-learn==1.7.2")
PLACE = "opt/science"  # where they lie in the image
PROGRAM = f"""
import sys
sys.path.insert(0, "/{PLACE}")
import numpy, pandas, sklearn.ensemble
print("READY", len(sys.modules), "modules", flush=True)
sys.stdin.read()
"""
COMMAND = ("/usr/bin/python3", "-c", PROGRAM)


def build_science_image(below: DemoImage, cache: Path, *, tell: Callable[[str], None]) -> DemoImage:
    """Return the image, building it below *cache* upon *below* unless it is there already (about a minute).

    Raises:
        BenchError: a package could not be had.
    """
    recipe = hashlib.sha256("\n".join([str(below.layout.name), *PACKAGES, PLACE]).encode()).hexdigest()[:16]
    layout = cache / f"science-image-{recipe}"
    if layout.is_dir():
        return DemoImage(layout, IMAGE_NAME)
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-", dir=cache) as scratch_name:
        scratch = Path(scratch_name)
        tell(f"fetching {', '.join(PACKAGES)} from PyPI")
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        wheels = ["--only-binary=:all:", "--python-version=3.11", f"--target={scratch / 'installed'}"]
        run_command([*pip, *wheels, *PACKAGES], doing="installing packages")
        tell("writing a layer")
        layer = scratch / "science.tar"
        _write_layer(scratch / "installed", layer)
        shutil.copytree(below.layout, scratch / "layout")
        _add_layer(scratch / "layout", layer)
        for older in cache.glob("science-image-*"):
            shutil.rmtree(older)
        (scratch / "layout").rename(layout)
    return DemoImage(layout, IMAGE_NAME)


def _write_layer(installed: Path, layer: Path) -> None:
    with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(installed.rglob("*")):
            member = archive.gettarinfo(name, f"{PLACE}/{name.relative_to(installed)}")
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            member.mtime = EPOCH
            content = name.read_bytes() if member.isreg() else b""
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)


def _add_layer(layout: Path, layer: Path) -> None:
    blobs = layout / "blobs" / "sha256"
    packed = oci_directory.pack_layer(layer, blobs)
    index = json.loads((layout / "index.json").read_bytes())
    entry = index["manifests"][0]
    manifest = _read(blobs, entry["digest"])
    config = _read(blobs, manifest["config"]["digest"])
    config["rootfs"]["diff_ids"].append(f"sha256:{packed.diff_id}")
    config["history"].append({"created": config["created"], "created_by": layer.stem})
    config["config"]["Cmd"] = list(COMMAND)
    manifest["config"] |= _put(blobs, config)
    manifest["layers"].append(
        {"mediaType": oci_directory.LAYER, "digest": f"sha256:{packed.digest}", "size": packed.size}
    )
    entry |= _put(blobs, manifest)
    entry["annotations"] = {"org.opencontainers.image.ref.name": IMAGE_NAME}
    (layout / "index.json").write_text(json.dumps(index), encoding="utf-8")


def _read(blobs: Path, digest: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((blobs / digest.partition(":")[2]).read_bytes())
    return found


def _put(blobs: Path, document: dict[str, Any]) -> dict[str, Any]:
    raw = json.dumps(document, sort_keys=True).encode()
    digest = hashlib.sha256(raw).hexdigest()
    (blobs / digest).write_bytes(raw)
    return {"digest": f"sha256:{digest}", "size": len(raw)}
