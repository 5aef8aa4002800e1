"""A request means the same in another process, and what lies on a disk of it has no secrets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import pytest

from launch.images.image_request import ImageRequest, absolute, from_json
from registry_client.options import RegistryOptions
from registry_client.platform import parse_platform
from registry_client.reference import parse_reference

REQUEST = ImageRequest(
    parse_reference("registry.example/app:1"),
    RegistryOptions(creds="somebody:secret", authfile=Path("/etc/auth.json"), tls_verify=False),
    platform=parse_platform("linux/arm64"),
    background=False,
    cache_size=1 << 30,
)


def test_it_is_the_same_after_a_journey() -> None:
    asked = absolute(REQUEST)
    assert from_json(json.loads(json.dumps(asked.to_json(secrets=True)))) == asked


def test_every_path_of_the_options_is_one_after_a_journey() -> None:
    kinds = get_type_hints(RegistryOptions)
    paths = {name: Path("file") for name, kind in kinds.items() if kind == Path | None}
    assert paths
    asked = absolute(replace(REQUEST, options=replace(REQUEST.options, **paths)))  # type: ignore[arg-type]
    come = from_json(json.loads(json.dumps(asked.to_json(secrets=True)))).options
    assert {name: getattr(come, name) for name in paths} == dict.fromkeys(paths, Path("file").absolute())


def test_accounts_and_proxies_stay_off_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://somebody:secret@proxy.example:3128")
    text = json.dumps(absolute(REQUEST).to_json(secrets=False))
    assert "secret" not in text and "proxy.example" not in text
    kept = from_json(json.loads(text))
    assert kept.options == replace(REQUEST.options, creds=None)


def test_it_brings_the_variables_of_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    monkeypatch.setenv("DOCKER_CONFIG", "/home/somebody/docker")
    monkeypatch.setenv("UNRELATED", "words")
    asked = absolute(REQUEST)
    monkeypatch.setenv("https_proxy", "another.example:1")
    variables = absolute(asked).options.variables
    assert variables["https_proxy"] == "proxy.example:3128"
    assert variables["DOCKER_CONFIG"] == "/home/somebody/docker"
    assert "UNRELATED" not in variables


def test_paths_are_understood_where_it_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = replace(REQUEST, options=RegistryOptions(authfile=Path("auth.json")), blob_dir=Path("blobs"))
    asked = absolute(relative)
    assert (asked.options.authfile, asked.blob_dir) == (tmp_path / "auth.json", tmp_path / "blobs")
