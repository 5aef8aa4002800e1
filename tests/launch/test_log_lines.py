"""The forms of a mount server's log lines, and of the options that choose them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from chunk_store.seldom import SECONDS
from launch import log_lines
from launch.fuse_mounts.server_options import server_options
from launch.log_lines import JSON, MOST, TEXT, Bounded, formatter
from tests.support.clock import Clock
from tests.support.command import CHECKOUT


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


def test_no_line_is_repeated_without_end_and_those_left_out_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(log_lines, "time", clock)
    bounded = Bounded()

    def passes(place: int, message: str, *what: object) -> str | None:
        record = logging.LogRecord("nopull.fuse", logging.WARNING, __file__, place, message, what, None)
        return record.getMessage() if bounded.filter(record) else None

    said = [passes(1, "%s calls it %s", "host", number) for number in range(10 * MOST)]
    assert said == [*(f"host calls it {number}" for number in range(MOST)), *[None] * (9 * MOST)]
    assert passes(2, "something else") == "something else"
    clock.now += SECONDS
    left_out = f"({9 * MOST} more like it were left out before it)"
    assert passes(1, "%s calls it %s", "host", "%") == f"host calls it % {left_out}"


def test_logs_of_servers_are_bounded() -> None:
    repeating = (
        "import logging\nfrom launch.log_lines import *\nlog_to_stderr(formatter(TEXT, ''))\n"
        f"for number in range({10 * MOST}): logging.warning('line %s', number)"
    )
    done = subprocess.run(
        [sys.executable, "-c", repeating], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert len(done.stderr.splitlines()) == MOST


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


def test_metrics_are_for_the_driver_with_a_server_per_mount() -> None:
    metrics, driver = ["--metrics-address", "127.0.0.1:0"], ["--driver", "erofs"]
    for words in ([*metrics, *driver], [*driver, *metrics]):
        done = CliRunner().invoke(shown, words)
        assert done.exit_code == 2
        assert "for the driver fuse" in done.output
