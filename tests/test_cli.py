"""The command itself: cheap to ask for help, one sentence per failure, an exit code from one table."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest

import nopull
from command import exit_codes, verbs
from command.start import Terminated
from tests.builder.layouts import Layout

CHECKOUT = Path(nopull.__file__).parent
OUR_PACKAGES = ("registry_client", "rafs", "chunk_store", "builder", "fuse_fs", "erofs_fs", "launch", "bench")
HEAVY = ("urllib3", "requests", "rich", "ssl", "zstandard", "logging", "subprocess", "importlib.metadata")


def run_python(
    *arguments: str, stdout: int = subprocess.PIPE, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=CHECKOUT, env={**os.environ, **variables},
        stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip


def run_nopull(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "nopull", *arguments)


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_import_click_and_no_package_of_ours(argument: str) -> None:
    ran = run_python("-X", "importtime", "-m", "nopull", argument)
    assert ran.returncode == 0
    imported = {line.rsplit("|", 1)[-1].strip() for line in ran.stderr.splitlines() if "|" in line}
    assert "click" in imported
    assert not {name for name in imported if name.split(".")[0] in OUR_PACKAGES}
    assert not imported.intersection(HEAVY)


def test_version_is_the_checkouts() -> None:
    assert run_nopull("--version").stdout == f"nopull {(CHECKOUT / 'VERSION').read_text().strip()}\n"


def test_help_teaches_every_verb_the_exit_codes_and_an_example() -> None:
    text = run_nopull("--help").stdout
    for verb, (_, _, what) in verbs.VERBS.items():
        assert f"  {verb} " in text
        assert what in text
    for phrase in ("Examples:", "Exit codes:", "NOPULL_ROOT", "nopull convert docker://"):
        assert phrase in text


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_every_verbs_help_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, attribute, _ = verbs.VERBS[verb]
    command = getattr(importlib.import_module(module), attribute)
    names = [[verb, name] for name in command.commands] if isinstance(command, click.Group) else []
    for words in ([verb], *names):
        assert nopull.main([*words, "--help"]) == 0
        assert f"nopull {' '.join(words)}" in capsys.readouterr().out.partition("Example")[2]


@pytest.mark.parametrize("name", exit_codes.EXIT_CODES)
def test_every_error_in_the_table_exists(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    assert issubclass(found, BaseException)


def test_an_error_takes_the_code_of_its_nearest_listed_class() -> None:
    class Local(PermissionError):
        pass

    assert exit_codes.exit_code(Local(1, "no")) == exit_codes.NO_PERMISSION
    assert exit_codes.exit_code(FileNotFoundError(2, "gone")) == exit_codes.OTHER
    assert exit_codes.exit_code(OSError(28, "full")) == exit_codes.DISK_FULL
    assert exit_codes.exit_code(ValueError("defect")) == exit_codes.OTHER


def verb_that(error: BaseException) -> click.Command:
    @click.command()
    @click.argument("rest", nargs=-1)
    def fail(rest: tuple[str, ...]) -> None:
        raise error

    return fail


Failing = Callable[..., None]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Puts a verb that raises a given error into the table: no other way meets every kind."""

    def install(error: BaseException, name: str = "check") -> None:
        module = ModuleType("failing_verb")
        vars(module)["verb"] = verb_that(error)
        monkeypatch.setitem(sys.modules, "failing_verb", module)
        monkeypatch.setitem(verbs.VERBS, name, ("failing_verb", "verb", ""))

    return install


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError(13, "Permission denied", "/x"), 8),
        (OSError(28, "No space left on device"), 9),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
        (Terminated(129), 129),
        (click.UsageError("wrong"), 2),
        (SystemExit(77), 77),
        (KeyError("defect"), 1),
    ],
)
def test_failures_end_in_their_exit_code(failing: Failing, error: BaseException, code: int) -> None:
    failing(error)
    assert nopull.main(["check"]) == code


@pytest.mark.parametrize("error", [OSError(28, "full"), click.UsageError("wrong"), KeyError("x")])
def test_run_fails_with_125_whatever_failed(failing: Failing, error: Exception) -> None:
    failing(error, "run")
    assert nopull.main(["run"]) == 125


@pytest.mark.parametrize("name", sorted(exit_codes.TOLD_ERRORS))
def test_what_a_verb_has_told_is_not_told_again(
    failing: Failing, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    module, _, attribute = name.rpartition(".")
    failing(getattr(importlib.import_module(module), attribute)("told"))
    assert nopull.main(["check"]) == exit_codes.EXIT_CODES[name]
    assert capfd.readouterr().err == ""


def test_a_failure_is_one_sentence(failing: Failing, capfd: pytest.CaptureFixture[str]) -> None:
    failing(OSError("two\nlines with https://me:secret@host/x?sig=secret inside"))
    assert nopull.main(["check"]) == 1
    assert capfd.readouterr().err == "nopull: two lines with https://…@host/x?… inside\n"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "no more memory: raise its limit (`ulimit -v`"),
        (RuntimeError("can't start new thread"), "no more threads: raise its limits (`ulimit -u`"),
        (OSError(24, "Too many open files", "/some/file"), "no more files open: raise its limit"),
    ],
)
def test_a_limit_of_the_process_is_named_and_no_defect(
    failing: Failing, error: Exception, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    failing(error)
    assert nopull.main(["check"]) == 1
    told = capfd.readouterr().err
    assert says in told
    assert "defect" not in told
    assert "/some/file" not in told


def test_a_failure_is_said_whatever_text_it_has(failing: Failing, capfd: pytest.CaptureFixture[str]) -> None:
    failing(OSError("a path \udcff, and what no path has: \ud800"))
    assert nopull.main(["check"]) == 1
    assert "what no path has" in capfd.readouterr().err


def test_debug_shows_no_secret(failing: Failing, capfd: pytest.CaptureFixture[str]) -> None:
    failing(KeyError("Authorization: Bearer abcdef0123456789"))
    assert nopull.main(["--log-level", "debug", "check"]) == 1
    shown = capfd.readouterr().err
    assert "Traceback" in shown
    assert "abcdef0123456789" not in shown


def test_interrupted_while_modules_load_it_ends_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    ran = run_python("-m", "nopull", "ps", PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    assert (ran.returncode, ran.stdout, ran.stderr) == (exit_codes.INTERRUPTED, "", "")


HOSTILE = "a\x1b]0;title\x07\x9b31m\u202e\nnopull: all is well\x00"
SHOWN = r"a\x1b]0;title\x07\x9b31m\u202e nopull: all is well\x00"


@pytest.mark.parametrize("kind", [ValueError, OSError, click.UsageError])
@pytest.mark.parametrize("level", ["warning", "debug"])
def test_no_failure_moves_a_cursor_or_looks_like_two(
    failing: Failing, capfd: pytest.CaptureFixture[str], kind: type[Exception], level: str
) -> None:
    failing(kind(HOSTILE))
    nopull.main(["--log-level", level, "check"])
    *before, last = capfd.readouterr().err.splitlines()
    assert SHOWN in last
    assert all(line.isprintable() for line in before)


def test_a_byte_that_is_no_text_is_shown_by_its_number(
    failing: Failing, capfd: pytest.CaptureFixture[str]
) -> None:
    failing(OSError(f"cannot use {os.fsdecode(b'caf' + bytes([0xE9]))}"))
    nopull.main(["check"])
    assert capfd.readouterr().err == "nopull: cannot use caf\\xe9\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("NOPULL_READER_SECONDS", value) for value in ("abc", "-1", "0", "nan", "inf", "1e9")),
        ("NOPULL_FUSE_LIBRARY", "libfuse3"),
    ],
)
def test_a_variable_that_says_nonsense_is_told_by_the_verb(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert nopull.main(["ps", "--root", "/nonexistent"]) == exit_codes.USAGE
    assert capfd.readouterr().err.startswith(f"nopull: {name} is {value!r}, expected ")


@pytest.mark.parametrize("value", ["", "0.5", "25", "3600"])
def test_a_variable_that_is_well_or_empty_is_no_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("NOPULL_READER_SECONDS", value)
    assert nopull.main(["ps", "--root", "/nonexistent"]) == 0


def test_an_unknown_verb_is_a_usage_error_that_offers_the_nearest() -> None:
    ran = run_nopull("mout")
    assert ran.returncode == 2
    assert ran.stderr.startswith("nopull: there is no verb `mout`: did you mean `mount`?")


@pytest.mark.parametrize(
    "words",
    [["--help"], ["ps", "--root", "/nonexistent"], ["bench", "report", "bench/results/startup.json"]],
    ids=" ".join,
)
def test_a_reader_that_went_away_is_no_error_message_and_ends_with_1(words: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    ran = run_python("-m", "nopull", *words, stdout=write_end)
    os.close(write_end)
    assert (ran.returncode, ran.stderr) == (exit_codes.OTHER, "")


@pytest.mark.parametrize("buffered", ["1", ""])
def test_an_output_that_takes_nothing_is_not_called_the_disk_of_the_root(buffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        ran = run_python(
            "-m", "nopull", "ps", "--root", "/nonexistent", stdout=full.fileno(), PYTHONUNBUFFERED=buffered
        )
    assert ran.returncode == exit_codes.DISK_FULL
    assert ran.stderr == "nopull: could not write to standard output: No space left on device\n"


def test_standard_streams_that_are_closed_lead_nowhere() -> None:
    command = f'exec "{sys.executable}" -P -m nopull --help <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
    command = f'exec "{sys.executable}" -P -m nopull inspect oci:/nonexistent:1 2>&-'
    assert subprocess.run(["sh", "-c", command], check=False).returncode == exit_codes.NOT_FOUND


def test_without_a_verb_the_help_is_shown_as_it_is() -> None:
    for verb in ([], ["cache"]):
        ran = run_nopull(*verb)
        assert ran.returncode == 2
        assert ran.stderr.startswith("Usage: nopull")


def test_a_conversion_goes_on_although_nobody_takes_what_it_says(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image([bytes(1024)])
    with Path("/dev/full").open("wb") as full:
        words = ["convert", f"oci:{tmp_path}/in:app", f"oci:{tmp_path}/out:app"]
        command = [sys.executable, "-m", "nopull", *words]
        ran = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=full, check=False)
    assert ran.returncode == 0
    assert b"sha256:" in ran.stdout
