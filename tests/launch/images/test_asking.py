"""Asking what a name means: early, and no longer than it is worth."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from launch.images import asking
from launch.images.asking import Question
from registry_client.errors import NotFound
from registry_client.options import RegistryOptions
from registry_client.reference import Reference, parse_reference
from tests.launch.published import publish
from tests.support.images import image_of
from tests.support.trees import file, tree


def question(reference: Reference, root: Path) -> Question:
    return Question(reference, RegistryOptions(timeout=30), root)


def test_a_layout_answers_at_once_and_its_source_reads_on(tmp_path: Path) -> None:
    published = publish(image_of(tree(file(b"f", b"x"))), f"oci:{tmp_path / 'layout'}:v1", tmp_path)
    asked = question(parse_reference(published.reference), tmp_path / "root")
    soon = asked.answer_soon()
    assert soon is not None and soon.digest == asked.answer().digest == published.manifest.digest
    assert asked.source.manifest(soon).digest == soon.digest
    asked.source.close()


def test_what_is_not_there_is_an_error_of_both_answers(tmp_path: Path) -> None:
    publish(image_of(tree(file(b"f", b"x"))), f"oci:{tmp_path / 'layout'}:v1", tmp_path)
    asked = question(parse_reference(f"oci:{tmp_path / 'layout'}:other"), tmp_path / "root")
    for answer in (asked.answer, asked.answer_soon):
        with pytest.raises(NotFound):
            answer()
    asked.source.close()


def test_whoever_accepts_and_says_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "KNOWN_TAG_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = question(parse_reference(f"docker://127.0.0.1:{silent.getsockname()[1]}/app:1"), tmp_path)
        assert asked.answer_soon() is None
        asked.source.close()


def test_whoever_cannot_be_connected_to_is_given_up_sooner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else the test would take this long, and fail by its own time limit.
    monkeypatch.setattr(asking, "KNOWN_TAG_SECONDS", 1000.0)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        asked = question(parse_reference(f"docker://127.0.0.1:{address[1]}/app:1"), tmp_path)
        assert asked.answer_soon() is None
        asked.source.close()
        for filler in fillers:
            filler.close()


def test_a_digest_that_is_known_is_not_asked_about(tmp_path: Path) -> None:
    digest = "sha256:" + "5" * 64
    (tmp_path / "images" / ("5" * 64)).mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
        asked = question(parse_reference(f"docker://{host}/app@{digest}"), tmp_path)
        connection, _ = server.accept()  # opened ahead, for reads
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        asked.source.close()
        connection.close()
