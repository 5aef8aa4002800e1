"""Images made by Nydus' own tools, through our whole path but the kernel: right bytes, or refused."""

from __future__ import annotations

import json
import stat
import tarfile
from pathlib import Path

import pytest

import nopull
from bench.oci_directory import write_oci_directory
from builder.progress import SilentProgress
from chunk_store import ChunkStore
from fuse_fs.paths import TreeByPath
from fuse_fs.tree import ImageTree
from launch.images.image_check import ImageCheck
from launch.images.lazy_image import LazyImage, open_image
from rafs.bootstrap import Bootstrap
from registry_client import open_source
from registry_client.options import RegistryOptions
from registry_client.platform import host_platform
from registry_client.reference import parse_reference
from tests.support.fixtures import fixture
from tests.support.nydus_vectors import Image, all_images, one_vector, path_of, sha256


def check_files(found: LazyImage, image: Image, root: Path) -> None:
    with ChunkStore(root) as store:
        attachment = store.attach(found.blobs, found.blob_source, background=False)
        tree = TreeByPath(ImageTree(found.bootstrap, attachment))
        for row in image.files:
            path = path_of(row)
            inode = tree.inode(path)
            assert stat.S_IMODE(inode.mode) == int(row["mode"], 8) and inode.uid == row["uid"], path
            if "sha256" in row:
                assert sha256(tree.read(path, 0, row["size"] + 1)) == row["sha256"], path
        attachment.close()


def written_bare(image: Image, folder: Path) -> str:
    """A reference to the image's bootstrap, written to *folder* with the blobs beside it."""
    (folder / "image.boot").write_bytes(image.bootstrap)
    for record in Bootstrap(image.bootstrap).blobs:
        (folder / record.id).write_bytes(image.blob_object(record))
        if record.meta_object != record.id:
            (folder / record.meta_object).write_bytes(image.tables_object(record))
    return f"rafs:{folder / 'image.boot'}"


@pytest.mark.parametrize("image", all_images())
def test_a_bare_bootstrap_shows_every_file(image: Image, tmp_path: Path) -> None:
    reference = parse_reference(written_bare(image, tmp_path))
    check_files(open_image(reference, RegistryOptions(), tmp_path / "root"), image, tmp_path / "root")


@pytest.mark.parametrize("image", all_images(lambda image: "manifest" in image.expect))
def test_a_published_image_opens_twice_and_shows_every_file(image: Image, tmp_path: Path) -> None:
    digest = image.expect["manifest"]["digest"]
    folder = fixture(f"nydus/vectors/{image.folder.name}") / "layout"
    for _ in range(2):
        reference = parse_reference(f"oci:{folder}@{digest}")
        found = open_image(reference, RegistryOptions(), tmp_path / "root")
        check_files(found, image, tmp_path / "root")
        found.close()


def nothing_differs(reference: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nopull.main(["diff", "--root", str(root), "--json", "--files", reference, reference]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["added"] == found["removed"] == [] and found["changed"] == {} and found["comparable"]
    assert found["paths"]["same"] > 1
    for what in ("files", "chunks", "blobs"):
        assert found[what]["added"]["count"] == found[what]["removed"]["count"] == 0


@pytest.mark.parametrize("image", all_images())
def test_a_bare_bootstrap_differs_from_itself_in_nothing(
    image: Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing_differs(written_bare(image, tmp_path), tmp_path / "root", capsys)


@pytest.mark.parametrize("image", all_images(lambda image: "manifest" in image.expect))
def test_a_published_image_differs_from_itself_in_nothing(
    image: Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fixture(f"nydus/vectors/{image.folder.name}") / "layout"
    nothing_differs(f"oci:{folder}@{image.expect['manifest']['digest']}", tmp_path / "root", capsys)


def test_an_image_of_tars_is_compared_with_another_like_any(tmp_path: Path) -> None:
    image = one_vector("tarfs")
    (record,) = Bootstrap(image.bootstrap).blobs
    (tmp_path / "same.tar").write_bytes(image.blob_object(record))
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    verdicts = []
    for name in ("same", "other"):
        write_oci_directory(
            tmp_path / name,
            name="image",
            layers=[tmp_path / f"{name}.tar"],
            config={},
            architecture=host_platform().architecture,
            created="2023-11-14T22:13:20Z",
            compress=False,
        )
        looking = ImageCheck(
            parse_reference(f"rafs:{image.folder / 'image.boot'}"),
            RegistryOptions(),
            blob_dir=image.folder / "blobs",
        )
        source = open_source(parse_reference(f"oci:{tmp_path / name}:image"), RegistryOptions())
        looking.find_ordinary(source)
        looking.shallow()
        assert looking.verdict.sound and looking.verdict.chunks > 10
        looking.deep(lambda _: None)
        looking.compare(SilentProgress())
        verdicts.append({finding.rule for finding in looking.verdict.findings})
    assert "against-missing" in verdicts[1] or "against-more" in verdicts[1]
    assert verdicts[0] == set()


def test_each_tar_that_is_another_is_told_of_and_leads_to_no_chunks(tmp_path: Path) -> None:
    image = one_vector("tarfs")
    (record,) = Bootstrap(image.bootstrap).blobs
    (tmp_path / record.id).write_bytes(image.blob_object(record)[:-512])
    looking = ImageCheck(
        parse_reference(f"rafs:{image.folder / 'image.boot'}"), RegistryOptions(), blob_dir=tmp_path
    )
    looking.shallow()
    found = [(finding.rule, finding.where) for finding in looking.verdict.findings]
    assert found == [("blob", f"blob {record.id}")]
    assert looking.verdict.chunks == 0
