"""One name leads to the ordinary image and to the converted one, each for the clients that want it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nopull
from builder.convert import convert
from builder.convert_options import ConvertOptions
from builder.discovery import ARTIFACT_TYPE, PLATFORM_FEATURE, Spelling
from builder.errors import SourceUnsupported
from builder.image_documents import NYDUS_SOURCE
from registry_client import open_destination, open_source
from registry_client.errors import NotFound
from registry_client.manifest import MediaType
from registry_client.options import RegistryOptions
from registry_client.platform import parse_platform
from registry_client.reference import parse_reference
from tests.builder.layouts import Layout, Published, convert_layout
from tests.builder.test_convert import LAYERS, SMALL, entry

AMD = parse_platform("linux/amd64")
SPELLINGS = list(Spelling)


def index_of(layout: Path) -> dict[str, Any]:
    """The index that `lazy` names."""
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    digest = next(one["digest"] for one in entries if one.get("annotations"))
    found: dict[str, Any] = json.loads((layout / "blobs/sha256" / digest[7:]).read_text())
    return found


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_both_images_are_in_the_index_the_ordinary_one_untouched(tmp_path: Path, spelling: Spelling) -> None:
    source = Layout(tmp_path / "in").add_image(LAYERS)
    options = replace(SMALL, spelling=spelling)
    report = convert_layout(tmp_path / "in", tmp_path / "out", options)
    index = index_of(tmp_path / "out")
    ordinary, converted = index["manifests"]
    assert report.media_type == index["mediaType"] == MediaType.OCI_INDEX
    assert {**source, "platform": {"architecture": "amd64", "os": "linux"}} == ordinary
    assert converted["annotations"] == {NYDUS_SOURCE: source["digest"]}
    image = Published(tmp_path / "out", converted["digest"])
    assert image.findings() == []
    if spelling is Spelling.ARTIFACT_TYPE:
        assert converted["artifactType"] == image.manifest["artifactType"] == ARTIFACT_TYPE
        assert image.manifest["config"]["mediaType"] == MediaType.NYDUS_CONFIG
    else:
        assert converted["platform"]["os.features"] == [PLATFORM_FEATURE]
        assert image.manifest["config"]["mediaType"] == MediaType.OCI_CONFIG
    name = f"oci:{tmp_path / 'out'}:lazy"
    assert nopull.main(["check", name, "--against", name]) == 0
    assert nopull.main(["convert", name, f"oci:{tmp_path / 'again'}:x"]) == 0
    direct = convert_layout(tmp_path / "in", tmp_path / "direct", ConvertOptions())
    assert Published(tmp_path / "again").digest == direct.digest


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_platform_has_both(tmp_path: Path, spelling: Spelling) -> None:
    layout = Layout(tmp_path / "in")
    amd = layout.add_image(LAYERS, tag=None)
    arm = layout.add_image(LAYERS[:1], tag=None, document={"architecture": "arm64"})
    layout.add_index([entry(amd, "amd64"), entry(arm, "arm64")])
    options = replace(SMALL, every_platform=True, spelling=spelling)
    convert_layout(tmp_path / "in", tmp_path / "out", options)
    entries = index_of(tmp_path / "out")["manifests"]
    assert [one["platform"]["architecture"] for one in entries] == ["amd64", "amd64", "arm64", "arm64"]
    assert [one["digest"] for one in entries[::2]] == [amd["digest"], arm["digest"]]
    # An index that has converted images already is a source like any other.
    convert_layout(tmp_path / "in", tmp_path / "plain", replace(SMALL, every_platform=True))
    opened = open_source(parse_reference(f"oci:{tmp_path / 'out'}:lazy"), RegistryOptions())
    with_both = open_destination(parse_reference(f"oci:{tmp_path / 'again'}:lazy"), RegistryOptions())
    report = convert(opened, with_both, tag="lazy", options=replace(SMALL, every_platform=True))
    assert (len(report.images), report.skipped, report.superseded) == (2, 0, 2)
    assert index_of(tmp_path / "again") == index_of(tmp_path / "plain")


def test_a_referrer_names_its_source_and_is_otherwise_the_same(tmp_path: Path) -> None:
    source = Layout(tmp_path / "in").add_image(LAYERS)
    convert_layout(tmp_path / "in", tmp_path / "out", replace(SMALL, referrer=True))
    convert_layout(tmp_path / "in", tmp_path / "plain", SMALL)
    manifest = Published(tmp_path / "out").manifest
    assert manifest.pop("subject") == source
    assert manifest == Published(tmp_path / "plain").manifest


@pytest.mark.parametrize("wish", [{"spelling": Spelling.ARTIFACT_TYPE}, {"referrer": True}])
def test_an_index_and_a_referrer_need_the_ordinary_image(tmp_path: Path, wish: dict[str, Any]) -> None:
    Layout(tmp_path / "in").add_image(LAYERS)
    convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    opened = open_source(parse_reference(f"oci:{tmp_path / 'out'}:lazy"), RegistryOptions())
    destination = open_destination(parse_reference(f"oci:{tmp_path / 'again'}:lazy"), RegistryOptions())
    with pytest.raises(SourceUnsupported, match="the ordinary one"):
        convert(opened, destination, tag="lazy", options=replace(SMALL, **wish))


def layout_with_both(tmp_path: Path, spelling: Spelling) -> tuple[Layout, list[dict[str, Any]]]:
    """A layout in `in`, and what an index says of the ordinary and the converted amd64 image in it."""
    Layout(tmp_path / "made").add_image(LAYERS)
    convert_layout(tmp_path / "made", tmp_path / "made-both", replace(SMALL, spelling=spelling))
    layout = Layout(tmp_path / "in")
    shutil.copytree(tmp_path / "made-both/blobs", tmp_path / "in/blobs", dirs_exist_ok=True)
    return layout, index_of(tmp_path / "made-both")["manifests"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_platform_that_has_only_a_converted_image_keeps_it(tmp_path: Path, spelling: Spelling) -> None:
    layout, (_, converted) = layout_with_both(tmp_path, spelling)
    arm = layout.add_image(LAYERS[:1], tag=None, document={"architecture": "arm64"})
    layout.add_index([converted, entry(arm, "arm64")])
    one = convert_layout(tmp_path / "in", tmp_path / "one", replace(SMALL, platform=AMD))
    assert one.already_converted and one.digest == converted["digest"]
    report = convert_layout(tmp_path / "in", tmp_path / "all", replace(SMALL, every_platform=True))
    assert [image.already_converted for image in report.images] == [True, False]
    kept, made = index_of(tmp_path / "all")["manifests"]
    assert kept == converted and made["platform"]["architecture"] == "arm64"
    with pytest.raises(NotFound, match="s390x"):
        convert_layout(tmp_path / "in", tmp_path / "no", replace(SMALL, platform=parse_platform("s390x")))
    with pytest.raises(SourceUnsupported, match="the ordinary one"):
        every = replace(SMALL, every_platform=True, spelling=spelling)
        convert_layout(tmp_path / "in", tmp_path / "both", every)


def test_a_platform_that_has_only_an_ordinary_image_is_said_to_have_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    layout, both = layout_with_both(tmp_path, Spelling.ARTIFACT_TYPE)
    arm = layout.add_image(LAYERS[:1], tag=None, document={"architecture": "arm64"})
    layout.add_index([*both, entry(arm, "arm64")])
    wanted = ["--platform", "linux/arm64/v8", f"oci:{tmp_path / 'in'}:app"]
    assert nopull.main(["inspect", "--json", "--root", str(tmp_path / "root"), *wanted]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["converted"], facts["manifest"]) == (False, arm["digest"])
    assert nopull.main(["check", *wanted]) == 6
    assert "is an ordinary image" in capfd.readouterr().err
