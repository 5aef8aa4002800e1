"""No planted secret comes out of a run that fails: not in messages, tracebacks, log records or reprs."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from registry_client import open_destination, open_source
from registry_client.errors import RegistryError
from registry_client.manifest import MediaType
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.registry_client.sample import SampleImage, describe, opener, store
from tests.support.scripted_registry import Reply, Request, ScriptedRegistry

SECRET = "planted-5ecret"
TOKEN = "planted-t0ken"


def hear_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("registry_client", "urllib3", "requests"):
        caplog.set_level(logging.DEBUG, logger=name)


def give_token(request: Request, reply: Reply) -> Reply:
    return Reply(200, body=json.dumps({"token": TOKEN}).encode())


def signed(storage: ScriptedRegistry) -> Callable[[Request, Reply], Reply]:
    return lambda request, reply: Reply(307, (("Location", f"{storage.url}/s?X-Signature={SECRET}"),))


def wrong_password(server: ScriptedRegistry, storage: ScriptedRegistry) -> None:
    server.require_account("alice", "right")


def refused_by_token_server(server: ScriptedRegistry, storage: ScriptedRegistry) -> None:
    server.require_token(account=("alice", "right"))


def token_not_accepted(server: ScriptedRegistry, storage: ScriptedRegistry) -> None:
    server.require_token()
    server.lie(give_token, "/token")


def storage_refuses(server: ScriptedRegistry, storage: ScriptedRegistry) -> None:
    server.lie(signed(storage), "(GET|PUT|POST) ")
    storage.lie(lambda request, reply: Reply(403), ".")


def storage_breaks(server: ScriptedRegistry, storage: ScriptedRegistry) -> None:
    server.lie(signed(storage), "(GET|PUT|POST) ")
    storage.lie(lambda request, reply: Reply(silent=True), ".")


def upload_breaks(server: ScriptedRegistry, storage: ScriptedRegistry) -> None:
    place = f"{storage.url}/v2/x/blobs/uploads/1?X-Signature={SECRET}"
    server.lie(lambda request, reply: reply.having(Location=place), "POST ")
    server.lie(lambda request, reply: Reply(500), "(GET|PUT) ")
    storage.lie(lambda request, reply: replace(reply, status=500, cut=0, reset=True), "PUT ")


def realm_with_an_account(server: ScriptedRegistry, storage: ScriptedRegistry) -> None:
    server.require_token(realm=f"ftp://alice:{SECRET}@127.0.0.1/token?password={SECRET}")


FAILURES = [
    wrong_password,
    refused_by_token_server,
    token_not_accepted,
    storage_refuses,
    storage_breaks,
    upload_breaks,
    realm_with_an_account,
]


@pytest.fixture(params=FAILURES, ids=lambda failure: failure.__name__)
def failing(
    request: pytest.FixtureRequest, server: ScriptedRegistry, storage: ScriptedRegistry, image: SampleImage
) -> Iterator[str]:
    reference = store(image, server)
    request.param(server, storage)
    yield reference


def test_failing_runs_keep_secrets(
    failing: str, image: SampleImage, options: RegistryOptions, caplog: pytest.LogCaptureFixture
) -> None:
    hear_everything(caplog)
    settings = replace(options, creds=f"alice:{SECRET}", timeout=0.5)
    source = open_source(parse_reference(failing), settings)
    destination = open_destination(parse_reference(failing), settings)
    blob = describe(b"new content", MediaType.OCI_LAYER)
    seen = [repr(settings), repr(source), repr(destination)]
    attempts: list[Callable[[], object]] = [
        source.resolve,
        lambda: list(source.read_at(image.layers[0], 0, 10)),
        lambda: destination.put_blob(blob, opener(b"new content")),
        lambda: destination.put_manifest(image.manifest, image.media_type, tag="v1"),
    ]
    for attempt in attempts:
        with pytest.raises(RegistryError) as caught:
            attempt()
        seen += traceback.format_exception(caught.value)
    source.close()
    destination.close()
    seen += [record.getMessage() for record in caplog.records]
    seen += [str(record.__dict__) for record in caplog.records]
    for text in seen:
        assert SECRET not in text
        assert TOKEN not in text


@pytest.mark.parametrize("given", ["file", "--creds=alice:", "--creds alice:"])
def test_a_running_command_shows_no_secret_to_other_users(
    server: ScriptedRegistry, image: SampleImage, tmp_path: Path, given: str
) -> None:
    """Its arguments, environment and thread names while it waits, and all it prints when it fails."""
    reference = store(image, server)
    server.require_token(account=("alice", SECRET))
    waiting = threading.Event()
    go_on = threading.Event()

    def hold(request: Request, reply: Reply) -> Reply:
        waiting.set()
        go_on.wait(20)
        return Reply(401, body=f"no {SECRET} for you".encode())

    server.lie(hold, "GET /token")
    account = tmp_path / "account"
    account.write_text(f"alice:{SECRET}\n")
    command = [sys.executable, "-m", "nopull", "--log-level", "debug", "inspect", reference]
    words = ["--creds", f"file:{account}"] if given == "file" else f"{given}{SECRET}".split()
    running = subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert waiting.wait(20)
        shown = b""
        for file in ("cmdline", "environ", "comm", "maps", *_thread_names(running.pid)):
            shown += Path(f"/proc/{running.pid}/{file}").read_bytes()
    finally:
        go_on.set()
        printed = running.communicate(timeout=30)[0]
    assert running.returncode == 4
    assert b"refuses the account 'alice'" in printed
    for text in (shown, printed):
        assert SECRET.encode() not in text
        assert base64.b64encode(f"alice:{SECRET}".encode()) not in text


def _thread_names(pid: int) -> list[str]:
    return [f"task/{one.name}/comm" for one in Path(f"/proc/{pid}/task").iterdir()]
