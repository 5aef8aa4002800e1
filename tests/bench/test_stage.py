"""Where the image of a comparison comes from."""

from __future__ import annotations

import pytest

from bench.stage import skopeo_options


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("docker://127.0.0.1:5000/a:1", ["--src-tls-verify=false"]),
        ("docker://localhost:5000/a:1", ["--src-tls-verify=false"]),
        ("docker://registry.example/127.0.0.1/a:1", []),
        ("docker://registry.example:5000/a:1", []),
        ("oci-archive:/127.0.0.1/a.tar", []),
    ],
)
def test_only_a_registry_on_a_loopback_address_is_read_without_tls(source: str, options: list[str]) -> None:
    assert skopeo_options(source) == options
