"""Proxies of the environment: used where they are meant to be, gone around when they are away."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from registry_client.errors import Unreachable
from registry_client.manifest import MediaType
from registry_client.options import RegistryOptions
from registry_client.transport import proxies
from registry_client.transport.origin import Origin
from registry_client.transport.proxies import proxy_for
from tests.registry_client import sample
from tests.registry_client.sample import SampleImage, describe, store
from tests.support.forward_proxy import ForwardProxy
from tests.support.scripted_registry import ScriptedRegistry

CONTENT = b"published through a proxy"
BLOB = describe(CONTENT, MediaType.OCI_LAYER)


@pytest.fixture(autouse=True)
def _none_is_known_to_be_down() -> Iterator[None]:
    proxies.forget()
    yield
    proxies.forget()


@pytest.fixture
def proxy(server: ScriptedRegistry) -> Iterator[ForwardProxy]:
    """Leads every name to *server*."""
    address, _, port = server.host.rpartition(":")
    with ForwardProxy((address, int(port))) as started:
        yield started


use = partial(sample.use, blob=CONTENT)


def test_https_goes_through_a_tunnel(
    server: ScriptedRegistry,
    proxy: ForwardProxy,
    image: SampleImage,
    options: RegistryOptions,
    certify: Callable[[str], tuple[Path, Path]],
    believe: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.certificate = certify("DNS:registry.example")
    believe(server, "registry.example")
    store(image, server)
    monkeypatch.setenv("HTTPS_PROXY", f"http://alice:se%3Acret@{proxy.address}")
    use("registry.example/demo/py:v1", image, options)
    assert set(proxy.asked) == {"CONNECT registry.example:443"}
    expected = "Basic " + base64.b64encode(b"alice:se:cret").decode()
    assert set(proxy.authorizations) == {expected}
    assert BLOB.digest in server.blobs
    assert all("proxy-authorization" not in request.headers for request in server.requests)


def test_plain_http_goes_through_as_whole_urls(
    server: ScriptedRegistry,
    proxy: ForwardProxy,
    image: SampleImage,
    options: RegistryOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store(image, server)
    monkeypatch.setenv("http_proxy", proxy.address)
    use("registry.example:5000/demo/py:v1", image, replace(options, plain_http=True))
    assert all(" http://registry.example:5000/v2/demo/py/" in one for one in proxy.asked)
    assert BLOB.digest in server.blobs


def test_the_variables_of_whoever_asks_count_in_another_process(
    proxy: ForwardProxy,
    server: ScriptedRegistry,
    image: SampleImage,
    options: RegistryOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store(image, server)
    monkeypatch.setenv("http_proxy", "nobody.example:1")
    asked = replace(options, plain_http=True, environment={"http_proxy": proxy.address})
    use("registry.example:5000/demo/py:v1", image, asked)
    assert all(" http://registry.example:5000/v2/demo/py/" in one for one in proxy.asked)


def test_a_proxy_that_is_away_is_gone_around_and_found_again(
    server: ScriptedRegistry,
    proxy: ForwardProxy,
    image: SampleImage,
    options: RegistryOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference = store(image, server)
    monkeypatch.setattr(proxies, "_wanted", lambda origin, exceptions: True)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused.getsockname()[1]}")
        use(reference, image, options)
    origin = Origin("http", "registry.example", 80)
    assert proxy_for(origin, options.variables) is None, "it is not asked again at once"
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
    use(reference, image, options)
    assert proxy.asked
    proxies.forget()
    proxy.stop()
    use(reference, image, options)


def test_a_proxy_that_refuses_is_named(
    server: ScriptedRegistry,
    proxy: ForwardProxy,
    image: SampleImage,
    options: RegistryOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy.refuse = True
    monkeypatch.setenv("HTTPS_PROXY", f"http://alice:planted@{proxy.address}")
    with pytest.raises(Unreachable, match="403") as caught:
        use("registry.example/demo/py:v1", image, replace(options, timeout=0.5))
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "exceptions", "used"),
    [
        ("registry.example", "", True),
        ("localhost", "", False),
        ("127.0.0.9", "", False),
        ("::1", "", False),
        ("registry.example", "*", False),
        ("registry.example", "other, .example", False),
        ("registry.example", "example", False),
        ("registry.example", "registry.example:443", False),
        ("registry.example", "registry.example:5000", True),
        ("registry.example", "gistry.example", True),
        ("10.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", False),
        ("11.1.2.3", "10.0.0.0/8,nonsense/99", True),
    ],
)
def test_exceptions_are_understood_as_everywhere(host: str, exceptions: str, used: bool) -> None:
    environment = {"HTTPS_PROXY": "proxy.example:3128", "NO_PROXY": exceptions}
    found = proxy_for(Origin("https", host, 443), environment)
    assert (found is not None) == used


@pytest.mark.parametrize("text", ["socks5://x:1", "https://x:1", "http://", "http://x:99999"])
def test_what_is_no_proxy_is_an_error_without_its_account(text: str) -> None:
    with pytest.raises(Unreachable, match="names no proxy that can be used"):
        proxy_for(Origin("https", "registry.example", 443), {"HTTPS_PROXY": text})


def test_asking_for_a_proxy_from_many_threads_is_safe() -> None:
    found: list[object] = []
    origin = Origin("https", "registry.example", 443)
    threads = [
        threading.Thread(target=lambda: found.append(proxy_for(origin, {"HTTPS_PROXY": "p:1"})))
        for _ in range(8)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 8
