"""What `hosts.toml` says of trust, over TLS that is spoken: whom to believe, and what to show."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from registry_client import open_source
from registry_client.errors import Unreachable
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.registries import routes
from tests.registry_client.cases import case
from tests.registry_client.sample import SampleImage, store
from tests.support.scripted_registry import ScriptedRegistry

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
Certify = Callable[[str], tuple[Path, Path]]
Read = Callable[[], None]
BLOBS = "GET /v2/.*/blobs/"


@pytest.fixture
def mirror(image: SampleImage, certify: Certify) -> Iterator[ScriptedRegistry]:
    """A second registry with the same image, which speaks TLS."""
    with ScriptedRegistry(certificate=certify("IP:127.0.0.1")) as started:
        store(image, started)
        yield started


@pytest.fixture
def directory(server: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `hosts.toml` of *server* goes; it is looked at on each use."""
    monkeypatch.setattr(routes, "_LOOK_SECONDS", 0.0)
    found = tmp_path / "certs.d" / server.host
    found.mkdir(parents=True)
    return found


@pytest.fixture
def write(mirror: ScriptedRegistry, directory: Path) -> Callable[[str], None]:
    """Makes *mirror* one that is trusted as the text says."""

    def written(text: str) -> None:
        fresh = directory / "new"
        fresh.write_text(f'[host."{mirror.url}"]\n{text}\n', encoding="utf-8")
        fresh.rename(directory / "hosts.toml")

    return written


@pytest.fixture
def read(
    server: ScriptedRegistry, image: SampleImage, options: RegistryOptions, request: pytest.FixtureRequest
) -> Read:
    """Opens the image, reads a range of it and checks that."""
    reference = parse_reference(store(image, server))

    def once() -> None:
        source = open_source(reference, options)
        request.addfinalizer(source.close)
        layer = image.layers[0]
        assert b"".join(source.read_at(layer, 7, 100)) == image.contents[layer.digest][7:107]

    return once


def put(files: tuple[Path, Path], directory: Path, stem: str) -> None:
    """Certificate and key as *directory*/*stem*.pem and .key."""
    shutil.copy(files[0], directory / f"{stem}.pem")
    shutil.copy(files[1], directory / f"{stem}.key")


@case(37)
def test_a_mirror_is_believed_by_the_authority_its_entry_names(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    directory: Path,
    write: Callable[[str], None],
    read: Read,
    certify: Certify,
) -> None:
    put(certify("IP:127.0.0.1"), directory, "authority")
    put(certify("DNS:other"), directory, "another")
    write('ca = "another.pem"')
    read()
    assert (len(server.seen(BLOBS)), len(mirror.requests)) == (1, 0), "who is not believed is told nothing"
    write('ca = ["another.pem", "authority.pem"]')
    read()
    assert (len(server.seen(BLOBS)), len(mirror.seen(BLOBS))) == (1, 1)


@case(37)
def test_a_mirror_gets_the_certificate_its_entry_names(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    directory: Path,
    write: Callable[[str], None],
    read: Read,
    certify: Certify,
) -> None:
    put(certify("IP:127.0.0.1"), directory, "authority")
    put(certify("DNS:node"), directory, "node")
    put(certify("DNS:other"), directory, "stranger")
    (directory / "both.pem").write_bytes(
        (directory / "node.pem").read_bytes() + (directory / "node.key").read_bytes()
    )
    mirror.clients = directory / "node.pem"
    for number, without in enumerate(("", 'client = [["stranger.pem", "stranger.key"]]'), 1):
        write(f'ca = "authority.pem"\n{without}')
        read()
        assert (len(server.seen(BLOBS)), len(mirror.requests)) == (number, 0)
    for number, client in enumerate(('[["node.pem", "node.key"]]', '"both.pem"'), 1):
        write(f'ca = "authority.pem"\nclient = {client}')
        read()
        assert (len(server.seen(BLOBS)), len(mirror.seen(BLOBS))) == (2, number)


@case(37)
def test_a_mirror_is_believed_unchecked_only_where_its_entry_says_so(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    write: Callable[[str], None],
    read: Read,
    certify: Certify,
) -> None:
    mirror.certificate = certify("DNS:other")
    write("skip_verify = false")
    read()
    assert (len(server.seen(BLOBS)), len(mirror.requests)) == (1, 0)
    write("skip_verify = true")
    read()
    assert (len(server.seen(BLOBS)), len(mirror.seen(BLOBS))) == (1, 1)


@case(37, 33)
def test_trust_in_a_mirror_is_no_trust_in_the_registry(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    directory: Path,
    write: Callable[[str], None],
    image: SampleImage,
    options: RegistryOptions,
    certify: Certify,
) -> None:
    server.certificate = certify("IP:127.0.0.1")
    mirror.blobs.clear()
    write("skip_verify = true")
    source = open_source(parse_reference(store(image, server)), replace(options, plain_http=False))
    with pytest.raises(Unreachable, match="its certificate is not trusted"):
        list(source.read_at(image.layers[0], 0, 10))
    source.close()
    assert mirror.seen(BLOBS)
    assert not server.requests


@case(37, 33)
def test_the_registrys_own_entry_says_how_it_is_believed(
    server: ScriptedRegistry,
    directory: Path,
    image: SampleImage,
    options: RegistryOptions,
    certify: Certify,
) -> None:
    server.certificate = certify("IP:127.0.0.1")
    put(certify("IP:127.0.0.1"), directory, "authority")
    put(certify("DNS:node"), directory, "node")
    server.clients = directory / "node.pem"
    (directory / "hosts.toml").write_text(
        f'server = "{server.url}"\nca = "authority.pem"\nclient = [["node.pem", "node.key"]]\n',
        encoding="utf-8",
    )
    source = open_source(parse_reference(store(image, server)), replace(options, plain_http=False))
    assert source.resolve() == image.descriptor()
    source.close()
