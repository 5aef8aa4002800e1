"""Which account is used: files, programs, precedence, and what broken ones do to the others."""

from __future__ import annotations

import base64
import json
import logging
import os
import select
from pathlib import Path
from typing import Any

import pytest

from registry_client.accounts import credentials
from registry_client.accounts.credentials import find_account
from registry_client.errors import Unauthorized
from registry_client.options import RegistryOptions
from tests.registry_client.cases import Server, case

SECRET = "pla:nted"


def auth(user: str, password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(path: Path, **document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def user_at(host: str, options: RegistryOptions | None = None, repository: str = "org/repo") -> str | None:
    account = find_account(host, repository, options or RegistryOptions())
    return account.username if account else None


@pytest.fixture
def home() -> Path:
    return Path(os.environ["HOME"])


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on the PATH for credential programs."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def program(directory: Path, name: str, script: str) -> None:
    file = directory / f"docker-credential-{name}"
    file.write_text(f"#!/bin/sh\nread -r server\n{script}\n")
    file.chmod(0o755)


def test_without_any_source_everybody_is_anonymous() -> None:
    assert find_account("registry.example", "a/b", RegistryOptions()) is None


@case(19, on=Server.NONE)
def test_a_password_may_hold_colons(home: Path) -> None:
    write(home / ".docker/config.json", auths={"registry.example": auth("me")})
    account = find_account("registry.example", "a/b", RegistryOptions())
    assert account is not None
    assert (account.username, account.password) == ("me", SECRET)


def test_the_files_are_asked_in_order(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = "registry.example"
    (home / ".dockercfg").write_text(json.dumps({host: auth("legacy")}))
    assert user_at(host) == "legacy"
    write(home / ".config/containers/auth.json", auths={host: auth("podman-config")})
    assert user_at(host) == "podman-config"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    write(tmp_path / "run/containers/auth.json", auths={host: auth("podman-run")})
    assert user_at(host) == "podman-run"
    write(home / ".docker/config.json", auths={host: auth("docker")})
    assert user_at(host) == "docker"
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    write(tmp_path / "docker/config.json", auths={host: auth("docker-variable")})
    assert user_at(host) == "docker-variable"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(write(tmp_path / "r.json", auths={host: auth("variable")})))
    assert user_at(host) == "variable"
    authfile = write(tmp_path / "o.json", auths={host: auth("option")})
    assert user_at(host, RegistryOptions(authfile=authfile)) == "option"
    assert user_at("other.example", RegistryOptions(authfile=authfile)) is None
    assert user_at(host, RegistryOptions(authfile=authfile, creds="given:x")) == "given"


@case(19, on=Server.NONE)
def test_the_longest_namespace_wins(home: Path) -> None:
    write(
        home / ".docker/config.json",
        auths={
            "quay.example": auth("host"),
            "quay.example/org": auth("org"),
            "quay.example/org/repo": auth("repo"),
            "quay.example/or": auth("not a component"),
        },
    )
    assert user_at("quay.example", repository="org/repo") == "repo"
    assert user_at("quay.example", repository="org/other") == "org"
    assert user_at("quay.example", repository="else/where") == "host"
    assert user_at("quay.example:5000") is None


@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io", "https://DOCKER.io"]
)
def test_docker_hub_has_many_names(home: Path, key: str) -> None:
    write(home / ".docker/config.json", auths={key: auth("hub")})
    assert user_at("docker.io", repository="library/debian") == "hub"


def test_keys_of_old_with_scheme_and_path_count_by_their_host(home: Path) -> None:
    write(home / ".docker/config.json", auths={"http://127.0.0.1:5000/v2/": auth("old")})
    assert user_at("127.0.0.1:5000") == "old"


@case(19, on=Server.NONE)
def test_one_broken_entry_loses_only_itself(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(
        home / ".docker/config.json",
        auths={
            "a.example": {"auth": "not base64 !"},
            "b.example": {"auth": base64.b64encode(b"nocolon").decode()},
            "c.example": ["list"],
            "d.example": {"username": 5},
            "e.example": {},
            "f.example": {"username": "plain", "password": SECRET + "\0\0"},
            "g.example": {"identitytoken": SECRET, **auth("g")},
            "h.example": {"registrytoken": SECRET},
        },
    )
    assert [user_at(f"{name}.example") for name in "abcde"] == [None] * 5
    plain, identity, token = (find_account(f"{name}.example", "r", RegistryOptions()) for name in "fgh")
    assert plain is not None and plain.password == SECRET
    assert identity is not None and identity.identity_token == SECRET and not identity.password
    assert token is not None and token.registry_token == SECRET
    assert "a.example" in caplog.text
    assert SECRET not in caplog.text + repr((plain, identity, token))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"auths": []}', "null", '{"auths": {"x": null}}'])
def test_a_broken_file_does_not_hide_the_next(home: Path, content: str) -> None:
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text(content)
    write(home / ".config/containers/auth.json", auths={"registry.example": auth("podman")})
    assert user_at("registry.example") == "podman"


def test_an_absent_file_that_was_asked_for_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Unauthorized, match=r"cannot read credentials from .*nowhere.json: no such file"):
        user_at("h.example", RegistryOptions(authfile=tmp_path / "nowhere.json"))


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "it is not JSON"), (b'{"auths": secret', "it is not JSON"), (b"\xff", "it is not JSON"),
     (b"[" * 100_000, "it is not JSON"), (b"[]", "it is not a JSON object")],
)  # fmt: skip
def test_a_file_that_was_asked_for_and_is_no_json_is_said_to_be_so(
    tmp_path: Path, content: bytes, why: str
) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(Unauthorized, match=rf"cannot read credentials from .*bad.json: {why}$"):
        user_at("h.example", RegistryOptions(authfile=tmp_path / "bad.json"))


def test_creds_that_are_no_account_are_an_error() -> None:
    with pytest.raises(Unauthorized, match="user:password") as caught:
        user_at("h.example", RegistryOptions(creds="planted"))
    assert "planted" not in str(caught.value)


def test_the_program_of_a_host_goes_before_the_program_of_all(home: Path, programs: Path) -> None:
    answer = """echo "{\\"ServerURL\\":\\"$server\\",\\"Username\\":\\"%s\\",\\"Secret\\":\\"x\\"}" """
    program(programs, "one", answer % "one")
    program(programs, "all", answer % "all-$server")
    write(
        home / ".docker/config.json",
        credsStore="all",
        credHelpers={"a.example": "one"},
        auths={"b.example": {}},
    )
    assert user_at("a.example") == "one"
    assert user_at("b.example") == "all-b.example"
    assert user_at("docker.io") == "all-https://index.docker.io/v1/"


@case(19, on=Server.NONE)
def test_a_program_may_answer_with_a_refresh_token(home: Path, programs: Path) -> None:
    program(programs, "t", """echo '{"Username":"<token>","Secret":"pla:nted"}' """)
    write(home / ".docker/config.json", credsStore="t")
    account = find_account("a.example", "r", RegistryOptions())
    assert account is not None and account.identity_token == SECRET


@pytest.mark.parametrize(
    ("script", "logged"),
    [
        ("echo 'credentials not found in native keychain'; exit 1", False),
        ("echo pla:nted; echo pla:nted >&2; exit 3", True),
        ("echo pla:nted", True),
        ("""echo '{"Username": 5, "Secret": "pla:nted"}' """, True),
        ("sleep 60", True),
    ],
)
@case(19, on=Server.NONE)
def test_a_program_that_fails_is_left_for_the_next_source(
    home: Path,
    programs: Path,
    script: str,
    logged: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(credentials, "PROGRAM_TIMEOUT", 0.3)
    program(programs, "bad", script)
    write(home / ".docker/config.json", credsStore="bad")
    write(home / ".config/containers/auth.json", auths={"registry.example": auth("podman")})
    with caplog.at_level(logging.DEBUG):
        assert user_at("registry.example") == "podman"
    assert bool(caplog.records) is logged
    assert SECRET not in caplog.text


@case(19, on=Server.NONE)
def test_what_a_program_that_hangs_has_started_is_stopped_with_it(
    home: Path, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "PROGRAM_TIMEOUT", 0.5)
    life = tmp_path / "life"
    os.mkfifo(life)
    reading = os.open(life, os.O_RDONLY | os.O_NONBLOCK)
    program(programs, "bad", f"(exec 3>'{life}'; echo born >&3; sleep 30) & wait")
    write(home / ".docker/config.json", credsStore="bad")
    assert user_at("registry.example") is None
    assert os.read(reading, 10) == b"born\n"
    ended, _, _ = select.select([reading], [], [], 10)
    assert ended and os.read(reading, 10) == b"", "the pipe has no other end any more"
    os.close(reading)


@pytest.mark.parametrize("name", ["not-installed", "../../bin/sh", "", "-x"])
@case(19, on=Server.NONE)
def test_a_program_that_cannot_be_run_is_skipped(home: Path, name: str) -> None:
    write(home / ".docker/config.json", credHelpers={"a.example": name}, auths={"a.example": auth("file")})
    assert user_at("a.example") == "file"
