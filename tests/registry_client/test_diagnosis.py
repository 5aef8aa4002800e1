"""`nopull explain --registry` says who we are at a registry, why, and what it answers; never a secret."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import nopull
from command import exit_codes
from registry_client.errors import ReferenceInvalid
from registry_client.options import RegistryOptions
from registry_client.registries.diagnosis import diagnose, diagnosis_lines
from tests.support.debian_registry import DebianRegistry
from tests.support.scripted_registry import Reply, ScriptedRegistry

SECRET = "planted-5ecret"


def docker_config(tmp_path: Path, host: str) -> Path:
    config = tmp_path / "home" / ".docker" / "config.json"
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps({"auths": {host: {"username": "alice", "password": SECRET}}}))
    return config


def told(name: str, options: RegistryOptions) -> str:
    facts = diagnose(name, options)
    text = "\n".join(diagnosis_lines(facts))
    assert SECRET not in text + json.dumps(facts)
    return text


def test_it_names_the_file_that_gave_the_account(
    server: ScriptedRegistry, options: RegistryOptions, tmp_path: Path
) -> None:
    server.require_token(account=("alice", SECRET), expires_in=300)
    server.lie(lambda request, reply: reply if reply.status == 401 else Reply(200, body=b"{}"), "GET /v2/$")
    config = docker_config(tmp_path, server.host)
    text = told(server.host, options)
    assert f"account: user 'alice' (a password), from {config}" in text
    assert "gave a token, good for 300 s" in text
    assert text.endswith("usable")
    assert "NOT usable" not in text


def test_it_says_what_is_wrong(server: ScriptedRegistry, options: RegistryOptions, tmp_path: Path) -> None:
    host = server.host
    config = docker_config(tmp_path, host)
    server.require_token(account=("alice", "other"))
    assert "refuses the account 'alice'" in told(server.host, options)
    server.require_account("alice", "other")
    assert "asked with that: 401" in told(server.host, options)
    config.unlink()
    assert "there is no account to show" in told(host, options)
    server.stop()
    assert "connection refused" in told(host, options)


def test_mirrors_are_tried_with_their_own_accounts(
    server: ScriptedRegistry, storage: ScriptedRegistry, options: RegistryOptions, tmp_path: Path
) -> None:
    directory = tmp_path / "certs.d" / server.host
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(f'[host."{storage.url}"]\n')
    storage.require_account("bob", "x")
    text = told(f"{server.host}/demo/py", replace(options, creds=f"alice:{SECRET}"))
    assert f"mirror   {storage.url}/v2/\n         account: none: anonymous" in text
    assert "account: user 'alice' (a password), from --creds" in text
    assert all("authorization" not in request.headers for request in storage.requests)


@pytest.mark.parametrize("name", ["", "a b", "UPPER/Case"])
def test_what_is_no_registry_is_refused(name: str, options: RegistryOptions) -> None:
    with pytest.raises(ReferenceInvalid):
        diagnose(name, options)


def test_the_command_shows_it_and_its_exit_code_says_how_it_went(
    server: ScriptedRegistry, capfd: pytest.CaptureFixture[str]
) -> None:
    run: Callable[..., int] = lambda *words: nopull.main(["explain", *words])  # noqa: E731 - three words
    server.lie(lambda request, reply: Reply(200, body=b"{}"), "GET /v2/$")
    assert run("--registry", server.host, "--json") == 0
    assert json.loads(capfd.readouterr().out)["registry"] == server.host
    server.require_account("alice", "x")
    server.honest()
    assert run("--registry", server.host) == exit_codes.UNAUTHORISED
    host = server.host
    server.stop()
    assert run("--registry", host) == exit_codes.UNREACHABLE
    assert run() == exit_codes.USAGE
    assert run("--registry", host, "image") == exit_codes.USAGE


@pytest.mark.system
def test_debians_registry_lets_us_in_or_not(options: RegistryOptions) -> None:
    with DebianRegistry(accounts={"alice": SECRET}) as registry:
        assert "asked with that: 200" in told(registry.host, replace(options, creds=f"alice:{SECRET}"))
        assert "NOT usable" in told(registry.host, replace(options, creds="alice:wrong"))
