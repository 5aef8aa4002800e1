"""Tokens and accounts against a registry that wants them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry_client.accounts.authorization import Authorization
from registry_client.accounts.bearer import is_internal
from registry_client.errors import ResponseInvalid, Unauthorized, Unreachable
from registry_client.options import RegistryOptions
from registry_client.registries.registry_source import RegistrySource
from registry_client.transport.connections import Origin, Pools
from registry_client.transport.deadline import Deadline
from tests.registry_client.cases import Server, case
from tests.registry_client.sample import SampleImage, publish, read
from tests.support.scripted_registry import Reply, Request, ScriptedRegistry

ACCOUNT = ("alice", 'pa:ss,wo"rd')
TOKEN = "(GET|POST) /token"

Opener = Callable[..., RegistrySource]


CLOCK = time.monotonic


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have the clock show *seconds* more than it would."""
    monkeypatch.setattr(time, "monotonic", lambda: CLOCK() + seconds)


def test_a_cold_start_with_token_takes_four_round_trips(
    server: ScriptedRegistry, opened: Opener, image: SampleImage
) -> None:
    server.require_token()
    source = opened()
    source.manifest(source.resolve())
    read(source, image)
    assert [f"{one.method} {one.path.split('/')[-2]}" for one in server.requests] == [
        "GET manifests",
        "GET ",
        "GET manifests",
        "GET blobs",
    ]
    read(source, image)
    assert (source.requests, server.connections) == (5, 1)


@case(13)
def test_the_scope_reaches_the_token_server(server: ScriptedRegistry, opened: Opener) -> None:
    server.require_token()
    opened().resolve()
    (asked,) = server.seen(TOKEN)
    assert asked.query == {
        "service": ["scripted"],
        "client_id": ["nopull"],
        "scope": ["repository:demo/py:pull"],
    }
    assert "authorization" not in asked.headers


@case(13)
def test_a_scope_beyond_ours_is_asked_for_first(server: ScriptedRegistry, opened: Opener) -> None:
    server.require_token()

    def more(request: Request, reply: Reply) -> Reply:
        if reply.status != 401:
            return reply
        scope = "repository:base/image:pull repository:demo/py:pull"
        return reply.having(WWW_Authenticate=f'BEARER Realm="{server.url}/token", SCOPE="{scope}"')

    server.lie(more, "GET /v2/")
    opened().resolve()
    assert server.seen(TOKEN)[0].query["scope"] == ["repository:base/image:pull", "repository:demo/py:pull"]


@pytest.mark.parametrize("asked", ["pull,push", "push,pull", "push", "pull"])
@case(13)
def test_actions_may_be_named_in_any_order(
    server: ScriptedRegistry, image: SampleImage, options: RegistryOptions, asked: str
) -> None:
    server.require_token()

    def worded(request: Request, reply: Reply) -> Reply:
        challenge = f'Bearer realm="{server.url}/token",scope="repository:demo/py:{asked}"'
        return reply.having(WWW_Authenticate=challenge) if reply.status == 401 else reply

    server.lie(worded, "/v2/")
    publish(image, f"{server.host}/demo/py:v1", options)
    assert [one.query["scope"] for one in server.seen(TOKEN)] == [["repository:demo/py:pull,push"]]


def test_an_account_gets_a_token_and_only_the_token_server_sees_it(
    server: ScriptedRegistry, storage: ScriptedRegistry, opened: Opener, image: SampleImage
) -> None:
    storage.require_token(account=ACCOUNT)
    server.require_token(realm=f"{storage.url}/token")
    server.accept_token("token-1")
    source = opened(creds=":".join(ACCOUNT))
    source.resolve()
    read(source, image)
    assert storage.requests[0].headers["authorization"].startswith("Basic ")
    assert not any(one.headers.get("authorization", "").startswith("Basic") for one in server.requests)


def test_an_account_is_asked_for_by_name_and_answered_with_basic(
    server: ScriptedRegistry, opened: Opener, image: SampleImage
) -> None:
    server.require_account(*ACCOUNT)
    source = opened(creds=":".join(ACCOUNT))
    source.resolve()
    read(source, image)
    assert [("authorization" in one.headers) for one in server.requests] == [False, True, True]


@pytest.mark.parametrize("basic", [True, False])
@case(16)
def test_a_wrong_password_is_one_clear_error_and_not_tried_again_and_again(
    server: ScriptedRegistry, opened: Opener, image: SampleImage, basic: bool
) -> None:
    if basic:
        server.require_account(*ACCOUNT)
    else:
        server.require_token(account=ACCOUNT)
    source = opened(creds="alice:planted-wrong")
    for _ in range(10):
        with pytest.raises(Unauthorized, match="401") as caught:
            source.resolve()
        assert "planted" not in str(caught.value)
        assert "account 'alice' (from --creds)" in str(caught.value)
    if not basic:
        assert len(server.seen(TOKEN)) == 1
    else:
        assert len(server.requests) <= 11


def test_anonymous_readers_are_told_to_log_in(server: ScriptedRegistry, opened: Opener) -> None:
    server.require_account(*ACCOUNT)
    with pytest.raises(Unauthorized, match="log in with docker login, or give --creds"):
        opened().resolve()


@case(14)
def test_a_token_without_a_life_lives_a_minute(
    server: ScriptedRegistry, opened: Opener, image: SampleImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.require_token()
    source = opened()
    source.resolve()
    later(monkeypatch, 40)
    read(source, image)
    assert len(server.seen(TOKEN)) == 1
    later(monkeypatch, 61)
    server.revoke_tokens()
    read(source, image)
    assert len(server.seen(TOKEN)) == 2
    assert not [one for one in server.seen("blobs") if one.headers["authorization"] == "Bearer token-1"][1:]


@case(15)
def test_sixty_four_readers_renew_a_token_with_one_request(
    server: ScriptedRegistry, opened: Opener, image: SampleImage
) -> None:
    server.require_token()
    source = opened()
    source.resolve()
    server.revoke_tokens()
    with ThreadPoolExecutor(64) as threads:
        list(threads.map(lambda at: read(source, image, at), range(64)))
    assert len(server.seen(TOKEN)) == 2


@case(15)
def test_readers_go_on_with_a_valid_token_while_another_is_fetched(
    server: ScriptedRegistry, opened: Opener, image: SampleImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.require_token(expires_in=100)
    source = opened()
    source.resolve()
    release = threading.Event()

    def slow(request: Request, reply: Reply) -> Reply:
        release.wait(5)
        return reply

    server.lie(slow, TOKEN, times=1)
    later(monkeypatch, 80)
    with ThreadPoolExecutor(1) as threads:
        renewing = threads.submit(read, source, image)
        while not server.seen(TOKEN)[1:]:
            assert not renewing.done()
        for offset in range(5):
            read(source, image, offset)
        assert not renewing.done()
        release.set()
        renewing.result(5)
    used = [one.headers["authorization"] for one in server.seen("blobs")]
    assert used == ["Bearer token-1"] * 5 + ["Bearer token-2"]


@case(15)
def test_whoever_waits_for_a_token_gets_its_failure_too(
    server: ScriptedRegistry, options: RegistryOptions
) -> None:
    readers = 16
    waiting = threading.Barrier(readers + 1)
    server.require_token()

    def busy(request: Request, reply: Reply) -> Reply:
        waiting.wait(5)
        return Reply(503)

    class Coming(Deadline):
        """Says once when its reader is about to wait."""

        come = False

        def remaining(self) -> float:
            if not self.come:
                self.come = True
                threading.Thread(target=waiting.wait, args=(5,), daemon=True).start()
            return super().remaining()

    server.lie(busy, TOKEN, times=1)
    origin = Origin("http", "127.0.0.1", int(server.host.rpartition(":")[2]))
    pools = Pools(options)
    authorization = Authorization(origin, server.host, "demo/py", options, pools)

    def ask(_: int) -> str:
        with pytest.raises(Unreachable, match="answered 503") as caught:
            authorization.answer([f'Bearer realm="{server.url}/token"'], None, "pull", Coming(5))
        return str(caught.value)

    with ThreadPoolExecutor(readers) as threads:
        assert len(set(threads.map(ask, range(readers)))) == 1
    assert len(server.seen(TOKEN)) == 1
    assert authorization.answer([f'Bearer realm="{server.url}/token"'], None, "pull", Deadline(5))
    pools.close()


@case(18)
def test_harbors_basic_challenge_to_an_expired_token_leads_to_a_new_token(
    server: ScriptedRegistry, opened: Opener, image: SampleImage
) -> None:
    server.require_token()
    source = opened()
    source.resolve()
    server.revoke_tokens()

    def harbor(request: Request, reply: Reply) -> Reply:
        if reply.status == 401 and "authorization" in request.headers:
            return reply.having(WWW_Authenticate='Basic realm="harbor"')
        return reply

    server.lie(harbor, "GET /v2/")
    read(source, image)
    assert len(server.seen(TOKEN)) == 2


@case(20)
def test_an_account_replaced_on_disk_is_found_without_a_restart(
    server: ScriptedRegistry, opened: Opener, image: SampleImage, tmp_path: Path
) -> None:
    file = tmp_path / "auth.json"

    def write(password: str) -> None:
        entry = {"username": "alice", "password": password}
        file.write_text(json.dumps({"auths": {server.host: entry}}))

    write("first")
    server.require_account("alice", "first")
    source = opened(authfile=file)
    source.resolve()
    server.require_account("alice", "second")
    with pytest.raises(Unauthorized):
        read(source, image)
    write("second")
    read(source, image)


@case(20)
def test_an_account_whose_token_was_refused_is_asked_for_again_as_soon_as_its_file_changes(
    server: ScriptedRegistry, opened: Opener, tmp_path: Path
) -> None:
    file = tmp_path / "auth.json"

    def write(password: str) -> None:
        entry = {"username": "alice", "password": password}
        file.write_text(json.dumps({"auths": {server.host: entry}}))

    write("planted-wrong")
    server.require_token(account=ACCOUNT)
    source = opened(authfile=file)
    for _ in range(3):
        with pytest.raises(Unauthorized):
            source.resolve()
    assert len(server.seen(TOKEN)) == 1
    write(ACCOUNT[1])
    source.resolve()
    assert len(server.seen(TOKEN)) == 2


@case(18)
def test_ecrs_way_of_saying_expired_is_understood(
    server: ScriptedRegistry, opened: Opener, image: SampleImage, tmp_path: Path
) -> None:
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {server.host: {"username": "AWS", "password": "old"}}}))
    server.require_account("AWS", "old")
    source = opened(authfile=file)
    source.resolve()
    server.require_account("AWS", "new")
    file.write_text(json.dumps({"auths": {server.host: {"username": "AWS", "password": "new"}}}))
    text = b"Your authorization token has expired. Reauthenticate and try again."
    server.lie(lambda request, reply: Reply(403, body=text), "GET /v2/", times=1)
    read(source, image)


@pytest.mark.parametrize("status", [400, 401, 404, 405])
@case(16, 19)
def test_an_identity_token_is_posted_and_a_token_server_that_wants_get_is_remembered(
    server: ScriptedRegistry, opened: Opener, image: SampleImage, tmp_path: Path, status: int
) -> None:
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {server.host: {"identitytoken": "planted-refresh"}}}))
    server.require_token()
    server.lie(lambda request, reply: Reply(status), "POST /token")
    source = opened(authfile=file)
    source.resolve()
    server.revoke_tokens()
    read(source, image)
    post, get, again = server.seen(TOKEN)
    assert b"grant_type=refresh_token&refresh_token=planted-refresh" in post.body
    assert (post.method, get.method, again.method) == ("POST", "GET", "GET")


@case(19)
def test_a_registry_token_is_sent_as_it_is(server: ScriptedRegistry, opened: Opener, tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {server.host: {"registrytoken": "given"}}}))
    server.require_token()
    server.accept_token("given")
    source = opened(authfile=file)
    source.resolve()
    source.resolve()
    assert not server.seen(TOKEN)


@pytest.mark.parametrize(
    ("realm", "why"),
    [
        ("ftp://127.0.0.1/token", "not an http or https URL"),
        ("http://", "not an http or https URL"),
        ("http://[::1/", "not a URL"),
        ("not a url", "not an http or https URL"),
    ],
)
@case(17)
def test_a_realm_that_is_no_place_is_refused(
    server: ScriptedRegistry, opened: Opener, realm: str, why: str
) -> None:
    server.require_token(realm=realm)
    with pytest.raises(ResponseInvalid, match=why):
        opened(creds="a:planted").resolve()


@case(17, on=Server.NONE)
def test_accounts_travel_neither_unencrypted_nor_to_internal_addresses() -> None:
    from registry_client.accounts.bearer import _realm
    from registry_client.transport.connections import Origin

    public = Origin("https", "registry.example", 443)
    for realm, why in (
        ("http://auth.example/token", "unencrypted"),
        ("https://169.254.169.254/latest", "internal address"),
        ("https://10.0.0.1/token", "internal address"),
        ("https://localhost/token", "internal address"),
    ):
        with pytest.raises(ResponseInvalid, match=why):
            _realm(realm, public)
    assert _realm("https://auth.example/token?a=b", public) == (
        Origin("https", "auth.example", 443),
        "/token?a=b",
    )
    assert is_internal("127.0.0.1") and is_internal("::1") and not is_internal("8.8.8.8")


@case(17)
def test_a_token_answer_is_bounded_and_understood(server: ScriptedRegistry, opened: Opener) -> None:
    server.require_token()
    for body, why in (
        (b"x" * 1_000_000, "more than 262144 bytes"),
        (b"<html>", "not JSON"),
        (b"[]", "not JSON"),
        (b'{"token": ""}', "without a token"),
        (b'{"token": "a\\r\\nX-Evil: 1"}', "without a token"),
    ):
        server.lie(lambda request, reply, b=body: Reply(200, body=b), TOKEN, times=1)  # type: ignore[misc]
        with pytest.raises((ResponseInvalid, Unreachable), match=why):
            opened().resolve()


@case(17)
def test_a_redirecting_token_server_is_refused(
    server: ScriptedRegistry, storage: ScriptedRegistry, opened: Opener
) -> None:
    server.require_token()
    server.lie(lambda request, reply: Reply(307, (("Location", storage.url),)), TOKEN)
    with pytest.raises(ResponseInvalid, match="answered 307, expected 200"):
        opened(creds="a:planted").resolve()
    assert not storage.requests


def test_a_busy_token_server_is_asked_again(server: ScriptedRegistry, opened: Opener) -> None:
    server.require_token()
    server.lie(lambda request, reply: Reply(503), TOKEN, times=2)
    opened().resolve()
    assert len(server.seen(TOKEN)) == 3
