"""Tokens that Debian's docker-registry judges itself, given by a token server of the tests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from registry_client import open_destination
from registry_client.accounts.authorization import FAILURE_MEMORY
from registry_client.errors import Unauthorized
from registry_client.manifest import MediaType
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.registries.registry_source import RegistrySource
from tests.registry_client.cases import Server, case
from tests.registry_client.sample import SampleImage, describe, opener, publish, read
from tests.support.debian_registry import DebianRegistry
from tests.support.token_server import TokenServer

pytestmark = pytest.mark.system
ALL = frozenset({"pull", "push"})
ACCOUNTS = {
    "alice": ('pa:ss,wo"rd', ALL),
    "reader": ("planted-reader", frozenset({"pull"})),
    "": ("", frozenset[str]()),
}
ALICE = 'alice:pa:ss,wo"rd'
READER = "reader:planted-reader"
CLOCK = time.monotonic
Opener = Callable[..., RegistrySource]


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    with TokenServer(ACCOUNTS) as started:
        yield started


@pytest.fixture
def registry(
    tokens: TokenServer, image: SampleImage, options: RegistryOptions, tmp_path: Path
) -> Iterator[DebianRegistry]:
    """Has *image*; nobody has been asked for a token since it came there."""
    with DebianRegistry(settings=tokens.settings(tmp_path)) as started:
        publish(image, f"{started.host}/demo/py:v1", replace(options, creds=ALICE))
        tokens.asked.clear()
        yield started


@pytest.fixture
def image_host(registry: DebianRegistry) -> str:
    return registry.host


def refuses(registry: DebianRegistry, token: str) -> bool:
    """Whether the registry lets nobody in with *token*."""
    asking = Request(f"{registry.url}/v2/demo/py/tags/list", headers={"Authorization": f"Bearer {token}"})
    try:
        urlopen(asking, timeout=5).close()
    except HTTPError as error:
        error.close()
        return error.code == 401
    return False


@case(13, on=Server.DEBIAN)
def test_debians_challenge_is_answered_with_its_scope_and_service(
    tokens: TokenServer, opened: Opener, image: SampleImage
) -> None:
    source = opened(creds=READER)
    source.manifest(source.resolve())
    for offset in range(20):
        read(source, image, offset)
    (asked,) = tokens.asked
    assert asked.account == READER
    assert (asked.query["service"], asked.query["scope"]) == (["debian"], ["repository:demo/py:pull"])


@case(13, on=Server.DEBIAN)
def test_debians_registry_is_published_to_with_one_scope_for_both_actions(
    tokens: TokenServer, registry: DebianRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    publish(image, f"{registry.host}/demo/other:v1", replace(options, creds=ALICE))
    assert "repository:demo/other:pull,push" in [one.query["scope"][-1] for one in tokens.asked]
    assert all("repository:demo/other:pull" in one.query["scope"][-1] for one in tokens.asked)


@case(14, on=Server.DEBIAN)
def test_debians_registry_never_sees_a_token_without_a_life_after_a_minute(
    tokens: TokenServer,
    registry: DebianRegistry,
    opened: Opener,
    image: SampleImage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens.expires_in = None
    source = opened(creds=READER)
    read(source, image)
    monkeypatch.setattr(time, "monotonic", lambda: CLOCK() + 40)
    read(source, image)
    assert len(tokens.asked) == 1
    before = len(registry.accesses())
    monkeypatch.setattr(time, "monotonic", lambda: CLOCK() + 61)
    read(source, image)
    assert len(tokens.asked) == 2
    assert {one.status for one in registry.accesses()[before:]} <= {206}


@case(15, 18, on=Server.DEBIAN)
def test_a_token_that_debians_registry_lets_expire_is_renewed_once_for_all_readers(
    tokens: TokenServer, registry: DebianRegistry, opened: Opener, image: SampleImage
) -> None:
    tokens.life = 2  # and the client is told that it lives five minutes
    source = opened(creds=READER)
    read(source, image)
    old = tokens.asked[-1].token
    tokens.life = 300
    end = CLOCK() + 20
    while not refuses(registry, old) and CLOCK() < end:
        time.sleep(0.1)
    assert refuses(registry, old)
    before = len(tokens.asked)
    with ThreadPoolExecutor(64) as threads:
        list(threads.map(lambda number: read(source, image, number), range(64)))
    assert len(tokens.asked) == before + 1
    assert not refuses(registry, tokens.asked[-1].token)


@case(16, on=Server.DEBIAN)
def test_a_wrong_password_before_debians_registry_is_one_clear_error(
    tokens: TokenServer, opened: Opener, image: SampleImage
) -> None:
    source = opened(creds="alice:planted-wrong")

    def attempt(number: int) -> str:
        with pytest.raises(Unauthorized) as caught:
            read(source, image, number)
        return str(caught.value)

    with ThreadPoolExecutor(16) as threads:
        said = set(threads.map(attempt, range(16)))
    assert all("alice" in one and "planted" not in one for one in said)
    assert [one.account for one in tokens.asked] == ["alice:planted-wrong"]


@case(16, on=Server.DEBIAN)
def test_an_identity_token_goes_to_debians_token_server_by_get_when_it_takes_no_post(
    tokens: TokenServer, registry: DebianRegistry, opened: Opener, image: SampleImage, tmp_path: Path
) -> None:
    tokens.accounts = {**ACCOUNTS, "alice": ("planted-identity", ALL)}
    config = tmp_path / "home" / ".docker" / "config.json"
    config.parent.mkdir()
    entry = {"username": "alice", "identitytoken": "planted-identity"}
    config.write_text(json.dumps({"auths": {registry.host: entry}}))
    read(opened(), image)
    assert [one.method for one in tokens.asked] == ["POST", "GET"]


@pytest.mark.parametrize(("creds", "who"), [(READER, "reader"), (None, "")])
@case(16, on=Server.DEBIAN)
def test_a_token_that_grants_too_little_is_an_error_at_once(
    tokens: TokenServer,
    registry: DebianRegistry,
    image: SampleImage,
    options: RegistryOptions,
    creds: str | None,
    who: str,
) -> None:
    before = len(registry.accesses())
    with pytest.raises(Unauthorized, match=r"40[13]"):
        publish(image, f"{registry.host}/demo/other:v1", replace(options, creds=creds))
    assert {one.account.partition(":")[0] for one in tokens.asked} == {who}
    assert len(tokens.asked) == 1, "a token server that granted less is not asked the same again"
    assert len(registry.accesses()) - before <= 3


@case(20, on=Server.DEBIAN)
def test_a_right_that_is_granted_later_is_found_without_a_restart(
    tokens: TokenServer,
    registry: DebianRegistry,
    options: RegistryOptions,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    content = b"published by somebody who may only since a moment ago"
    layer = describe(content, MediaType.OCI_LAYER)
    destination = open_destination(
        parse_reference(f"{registry.host}/demo/other:v1"), replace(options, creds=READER)
    )
    request.addfinalizer(destination.close)
    with pytest.raises(Unauthorized):
        destination.put_blob(layer, opener(content))
    tokens.accounts = {**ACCOUNTS, "reader": ("planted-reader", ALL)}
    asked = len(tokens.asked)
    monkeypatch.setattr(time, "monotonic", lambda: CLOCK() + FAILURE_MEMORY + 1)
    destination.put_blob(layer, opener(content))
    assert destination.has_blob(layer)
    assert len(tokens.asked) == asked + 1


@case(20, on=Server.DEBIAN)
def test_an_account_replaced_on_disk_opens_debians_registry_again(
    tokens: TokenServer, registry: DebianRegistry, opened: Opener, image: SampleImage, tmp_path: Path
) -> None:
    config = tmp_path / "home" / ".docker" / "config.json"
    config.parent.mkdir()

    def write(password: str) -> None:
        entry = {"username": "reader", "password": password}
        config.write_text(json.dumps({"auths": {registry.host: entry}}))

    write("planted-reader")
    tokens.life = 1
    source = opened()
    read(source, image)
    old = tokens.asked[-1].token
    tokens.life = 300
    tokens.accounts = {**ACCOUNTS, "reader": ("planted-rotated", frozenset({"pull"}))}
    write("planted-rotated")
    end = CLOCK() + 20
    while not refuses(registry, old) and CLOCK() < end:
        time.sleep(0.1)
    read(source, image)
    assert tokens.asked[-1].account == "reader:planted-rotated"
