"""The options every verb shares, as a user types them."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from registry_client.options import RegistryOptions
from registry_client.options_cli import registry_options


@click.command()
@registry_options
@click.argument("image")
def show(image: str, registry: RegistryOptions) -> None:
    """Print what arrived."""
    click.echo(f"{image} {registry.plain_http} {registry.tls_verify} {registry.authfile} {registry.creds}")


def run(*arguments: str) -> str:
    outcome = CliRunner().invoke(show, arguments)
    return outcome.output.strip() if outcome.exit_code == 0 else f"{outcome.exit_code}: {outcome.output}"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ([], "None True None None"),
        (["--plain-http"], "True True None None"),
        (["--no-tls-verify"], "None False None None"),
        (["--tls-verify=false"], "None False None None"),
        (["--tls-verify=TRUE"], "None True None None"),
        (["--creds", "me:pass:word"], "None True None me:pass:word"),
    ],
)
def test_options_mean_what_they_mean_elsewhere(arguments: list[str], shown: str) -> None:
    assert run(*arguments, "img") == f"img {shown}"
    assert run("img", *arguments) == f"img {shown}"


def test_a_bare_tls_verify_is_true() -> None:
    assert run("img", "--tls-verify") == "img None True None None"


def test_an_image_is_not_taken_for_the_value_of_tls_verify() -> None:
    output = run("--tls-verify", "host/app:1")
    assert output.startswith("2: ")
    assert "'host/app:1' is neither true nor false" in output


def test_an_account_need_not_be_an_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOPULL_CREDS", "by:default")
    assert run("img").endswith("by:default")
    monkeypatch.setenv("ELSEWHERE", "from:variable")
    assert run("img", "--creds", "env:ELSEWHERE").endswith("from:variable")
    (tmp_path / "creds").write_text("from:file\nsecond line\n")
    assert run("img", "--creds", f"file:{tmp_path}/creds").endswith("from:file")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--creds", "planted"], "its value is not of the form user:password"),
        (["--creds", "env:NOT_SET"], "the variable NOT_SET is not of the form"),
        (["--creds", "file:/nowhere"], "cannot read /nowhere: No such file"),
        (["--authfile", "/nowhere"], "'/nowhere' does not exist"),
        (["--tls-verify=maybe"], "neither true nor false"),
    ],
)
def test_misuse_is_a_usage_error_that_keeps_secrets(arguments: list[str], words: str) -> None:
    output = run("img", *arguments)
    assert output.startswith("2: ")
    assert words in output
    assert "planted" not in output


def test_the_help_warns_of_visible_arguments() -> None:
    assert "NOPULL_CREDS" in run("--help")
    assert "Other users can see" in run("--help")
