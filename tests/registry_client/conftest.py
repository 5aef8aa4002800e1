"""What all tests of the registry client share: no accounts of whoever runs them, short pauses, scripted
servers.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from registry_client import open_destination, open_source
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.registries.registry_destination import RegistryDestination
from registry_client.registries.registry_source import RegistrySource
from registry_client.transport import retrying
from tests.registry_client.cases import Server
from tests.registry_client.sample import SampleImage, sample_image, store
from tests.support.debian_registry import DebianRegistry
from tests.support.scripted_registry import ScriptedRegistry


@pytest.fixture(autouse=True)
def _no_accounts_and_short_pauses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "NOPULL_CREDS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NOPULL_HOSTS_DIR", str(tmp_path / "certs.d"))
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(retrying, "FIRST_PAUSE", 0.001)


@pytest.fixture(autouse=True)
def _server_is_the_one_that_was_named(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that shows a case says on which server; this holds it to that."""
    before = ScriptedRegistry.started, DebianRegistry.started
    yield
    shows = getattr(request.function, "shows", None)
    if shows is not None:
        scripted, debian = (ScriptedRegistry.started > before[0]), (DebianRegistry.started > before[1])
        used = {
            (True, True): Server.BOTH,
            (True, False): Server.SCRIPTED,
            (False, True): Server.DEBIAN,
            (False, False): Server.NONE,
        }[scripted, debian]
        assert shows[1] in (used, Server.BOTH), f"it used: {used.value}"


@pytest.fixture
def options() -> RegistryOptions:
    return RegistryOptions(timeout=10.0, stall_timeout=4.0, connect_timeout=4.0)


@pytest.fixture
def server() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as started:
        yield started


@pytest.fixture
def storage() -> Iterator[ScriptedRegistry]:
    """A second host, for storage and tokens."""
    with ScriptedRegistry() as started:
        yield started


@pytest.fixture
def image() -> SampleImage:
    return sample_image()


@pytest.fixture
def source(
    server: ScriptedRegistry, image: SampleImage, options: RegistryOptions
) -> Iterator[RegistrySource]:
    """*image* in *server*, opened; nothing has been asked yet."""
    opened = open_source(parse_reference(store(image, server)), options)
    assert isinstance(opened, RegistrySource)
    yield opened
    opened.close()


@pytest.fixture
def destination(server: ScriptedRegistry, options: RegistryOptions) -> Iterator[RegistryDestination]:
    opened = open_destination(parse_reference(f"{server.host}/demo/py:v1"), options)
    assert isinstance(opened, RegistryDestination)
    yield opened
    opened.close()


@pytest.fixture
def image_host(server: ScriptedRegistry, image: SampleImage) -> str:
    """Where *image* is called `demo/py:v1`."""
    return store(image, server).partition("/")[0]


@pytest.fixture
def opened(
    image_host: str, options: RegistryOptions, request: pytest.FixtureRequest
) -> Callable[..., RegistrySource]:
    """Opens the image with changed options, at *image_host* or another host; closed at the end."""

    def open_it(at: str = image_host, **changes: object) -> RegistrySource:
        changed = replace(options, **changes)  # type: ignore[arg-type]
        source = open_source(parse_reference(f"{at}/demo/py:v1"), changed)
        assert isinstance(source, RegistrySource)
        request.addfinalizer(source.close)
        return source

    return open_it


@pytest.fixture(scope="session")
def certify(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Makes a certificate, its own authority, for a `subjectAltName`."""
    directory = tmp_path_factory.mktemp("certificates")

    def make(name: str) -> tuple[Path, Path]:
        stem = name.replace(":", "-")
        certificate, key = directory / f"{stem}.crt", directory / f"{stem}.key"
        if not certificate.exists():
            arguments = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
            names = ["-subj", "/CN=test", "-addext", f"subjectAltName={name}"]
            subprocess.run(
                [
                    "openssl",
                    "req",
                    "-x509",
                    *arguments,
                    *names,
                    "-keyout",
                    str(key),
                    "-out",
                    str(certificate),
                ],
                check=True,
                capture_output=True,
            )
        return certificate, key

    return make


@pytest.fixture
def believe(tmp_path: Path) -> Callable[..., None]:
    """Has a server's certificate trusted as a user would: in the directory of its host, or another's."""

    def put(server: ScriptedRegistry, host: str = "") -> None:
        assert server.certificate is not None
        directory = tmp_path / "certs.d" / (host or server.host)
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_bytes(server.certificate[0].read_bytes())

    return put
