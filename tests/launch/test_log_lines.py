"""The forms of a mount server's log lines, and of the options that choose them."""

from __future__ import annotations

import json
import logging
import sys

import click
import pytest
from click.testing import CliRunner

from launch.log_lines import JSON, TEXT, formatter
from launch.server_options import server_options


def line(kind: str, message: str, **extra: object) -> str:
    record = logging.LogRecord("nopull.fuse", logging.ERROR, __file__, 1, message, None, None)
    record.__dict__.update(extra)
    return formatter(kind, "0123abcd").format(record)


def test_a_line_is_one_object_whatever_is_in_the_message() -> None:
    text = line(JSON, 'two\nlines and "quotes" \udcff', path="/a\nb")
    assert "\n" not in text
    said = json.loads(text)
    assert (said["message"], said["path"]) == ('two\nlines and "quotes" \udcff', "/a\nb")
    assert (said["level"], said["logger"], said["mount"]) == ("error", "nopull.fuse", "0123abcd")
    assert "path" not in json.loads(line(JSON, "x"))


def test_text_is_for_people() -> None:
    assert line(TEXT, "it failed").endswith(" ERROR nopull.fuse: it failed")


def test_a_line_stays_one_and_moves_no_cursor_whatever_is_in_the_message() -> None:
    assert line(TEXT, "no\x1b[2J\nit is well").endswith(r"ERROR nopull.fuse: no\x1b[2J\nit is well")
    try:
        raise ValueError("no\x1b[2J")
    except ValueError:
        raised = sys.exc_info()
    record = logging.LogRecord("nopull.fuse", logging.ERROR, __file__, 1, "no", None, raised)
    shown = formatter(TEXT, "").format(record).splitlines()
    assert shown[-1] == r"ValueError: no\x1b[2J"
    assert all(one.isprintable() for one in shown)


@click.command()
@server_options
def shown(driver: str, metrics_address: tuple[str, int] | None, log_format: str) -> None:
    click.echo(repr((driver, metrics_address, log_format)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "('auto', None, 'text')"),
        (["--metrics-address", "127.0.0.1:9100"], "('auto', ('127.0.0.1', 9100), 'text')"),
        (
            ["--driver", "fuse", "--metrics-address", "[::1]:0", "--log-format", "json"],
            "('fuse', ('::1', 0), 'json')",
        ),
    ],
)
def test_options_of_servers(words: list[str], said: str) -> None:
    assert CliRunner().invoke(shown, words).output == f"{said}\n"


@pytest.mark.parametrize("text", ["9100", ":9100", "host", "host:", "host:x", "host:65536", "host:²"])
def test_an_address_without_host_or_port_is_refused(text: str) -> None:
    done = CliRunner().invoke(shown, ["--metrics-address", text])
    assert done.exit_code == 2 and "HOST:PORT" in done.output
