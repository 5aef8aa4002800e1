"""HTTPS: certificates are checked, a failed check is final, and nothing falls back to plain HTTP."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from registry_client.errors import Unreachable
from registry_client.manifest import MediaType
from registry_client.options import RegistryOptions
from registry_client.transport.site import registry_site
from tests.registry_client import sample
from tests.registry_client.cases import case
from tests.registry_client.sample import SampleImage, describe, store
from tests.support.scripted_registry import ScriptedRegistry

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
CONTENT = b"content"
BLOB = describe(CONTENT, MediaType.OCI_LAYER)


@pytest.fixture
def secure(server: ScriptedRegistry, certify: Callable[[str], tuple[Path, Path]]) -> ScriptedRegistry:
    server.certificate = certify("IP:127.0.0.1")
    return server


use = partial(sample.use, blob=CONTENT)


def test_an_authority_can_be_added(
    secure: ScriptedRegistry, image: SampleImage, options: RegistryOptions, believe: Callable[..., None]
) -> None:
    believe(secure)
    use(store(image, secure), image, replace(options, plain_http=False))
    assert secure.blobs[BLOB.digest] == CONTENT


def test_checking_can_be_turned_off(
    secure: ScriptedRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    use(store(image, secure), image, replace(options, plain_http=False, tls_verify=False))
    assert secure.blobs[BLOB.digest] == CONTENT


@pytest.mark.parametrize(
    ("name", "trusted", "why"), [("IP:127.0.0.1", False, "self.signed"), ("DNS:other", True, "mismatch")]
)
@case(33)
def test_a_certificate_that_is_not_trusted_is_final(
    server: ScriptedRegistry,
    certify: Callable[[str], tuple[Path, Path]],
    image: SampleImage,
    options: RegistryOptions,
    believe: Callable[..., None],
    name: str,
    trusted: bool,
    why: str,
) -> None:
    server.certificate = certify(name)
    if trusted:
        believe(server)
    with pytest.raises(
        Unreachable, match=rf"its certificate is not trusted \(.*{why}.*\); .*--no-tls-verify"
    ) as caught:
        use(store(image, server), image, replace(options, plain_http=False))
    assert not caught.value.temporary
    assert server.connections == 1
    assert not server.requests


@case(33)
def test_an_expired_certificate_is_final_however_well_it_is_known(
    server: ScriptedRegistry,
    image: SampleImage,
    options: RegistryOptions,
    tmp_path: Path,
    believe: Callable[..., None],
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=20))
        .not_valid_after(now - timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    server.certificate = (tmp_path / "old.crt", tmp_path / "old.key")
    server.certificate[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    server.certificate[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    believe(server)
    with pytest.raises(Unreachable, match=r"its certificate is not trusted \(.*expired.*\)") as caught:
        use(store(image, server), image, replace(options, plain_http=False))
    assert not caught.value.temporary
    assert (server.connections, server.requests) == (1, [])


@case(33)
def test_plain_http_and_tls_that_meet_say_so(
    secure: ScriptedRegistry, storage: ScriptedRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    with pytest.raises(Unreachable, match=r"does not speak TLS; use --plain-http|it speak TLS\?"):
        use(store(image, storage), image, replace(options, plain_http=False))
    with pytest.raises(Unreachable):
        use(store(image, secure), image, replace(options, timeout=0.3))


def test_an_authority_that_cannot_be_read_is_named(
    image: SampleImage, options: RegistryOptions, tmp_path: Path
) -> None:
    directory = tmp_path / "certs.d" / "127.0.0.1:1"
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text('ca = "nowhere.pem"\n', encoding="utf-8")
    with pytest.raises(Unreachable, match=r"nowhere.pem as certificate authority"):
        use("127.0.0.1:1/a", image, replace(options, plain_http=False))


@pytest.mark.parametrize(
    ("host", "plain_http", "expected"),
    [
        ("localhost", None, "http://localhost:80"),
        ("127.0.0.5:5000", None, "http://127.0.0.5:5000"),
        ("[::1]:5000", None, "http://::1:5000"),
        ("[::1]", None, "http://::1:80"),
        ("localhost.example", None, "https://localhost.example:443"),
        ("10.0.0.1:5000", None, "https://10.0.0.1:5000"),
        ("10.0.0.1:5000", True, "http://10.0.0.1:5000"),
        ("localhost:5000", False, "https://localhost:5000"),
        ("docker.io", None, "https://registry-1.docker.io:443"),
    ],
)
def test_only_loopback_is_spoken_to_in_plain_http_by_itself(
    host: str, plain_http: bool | None, expected: str
) -> None:
    origin = registry_site(host, RegistryOptions(plain_http=plain_http)).origin
    assert f"{origin.scheme}://{origin.host}:{origin.port}" == expected
