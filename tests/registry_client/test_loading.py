"""What importing costs: names and local images load no HTTP, plain HTTP builds no TLS context, reading no
requests.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("urllib3", "requests", "ssl", "http.client", "tarfile", "subprocess", "click")


def loaded(statement: str) -> set[str]:
    """The modules of HEAVY, and those of ours, that a fresh interpreter has after *statement*."""
    program = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import registry_client", HEAVY),
        ("from registry_client.reference import parse_reference", HEAVY),
        ("import registry_client.opening, registry_client.selection", HEAVY),
        ("import registry_client.layouts.layout", ("urllib3", "requests", "ssl")),
        (
            "import registry_client.registries.registry_source",
            ("registry_client.accounts.authorization", "registry_client.transport.tls"),
        ),
        ("import registry_client.registries.registry_source", ("requests", "click", "subprocess", "tarfile")),
        (
            "import registry_client.registries.registry_destination",
            ("requests", "click", "subprocess", "tarfile"),
        ),
    ],
)
def test_what_is_not_needed_is_not_loaded(statement: str, unwanted: tuple[str, ...]) -> None:
    assert loaded(statement) & set(unwanted) == set()


def test_importing_the_package_loads_none_of_its_modules() -> None:
    assert {name for name in loaded("import registry_client") if name.startswith("registry_client.")} == set()
