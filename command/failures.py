"""How failures are told: once, in one sentence on standard error, with no secret, and moving no cursor.

Which code they end with is in `exit_codes`. Telling must not fail, whatever is closed or full.
"""

from __future__ import annotations

import errno
import os
import sys

import click

from command.exit_codes import is_listed


def report(error: Exception, log_level: str) -> None:
    """Tell what *error* says; at *log_level* "debug" also where it came from."""
    if log_level == "debug":
        import traceback

        from rafs.printable import printable

        for line in without_secrets("".join(traceback.format_exception(error))).splitlines():
            _print(printable(line))
    sentence = _os_sentence(error) if isinstance(error, OSError) else str(error)
    if isinstance(error, OSError) and _is_of_printing(error):
        report_output(error)
    elif shortage := _shortage(error):
        say(shortage)
    elif is_listed(error):
        say(sentence or type(error).__name__)
    else:
        name = type(error).__name__
        say(f"unexpected {name}: {sentence}; this is a defect, `nopull --log-level debug …` shows where")


def report_usage(refused: click.ClickException) -> None:
    """Tell what is wrong with the command line, and where its help is."""
    sentence = refused.format_message()
    if isinstance(refused, click.UsageError) and refused.ctx is not None:
        sentence = f"{sentence.rstrip('.')} (see `{refused.ctx.command_path} --help`)"
    say(sentence)


def report_output(error: OSError) -> None:
    """Tell that standard output took no more, and have the rest of it lead nowhere."""
    say(f"could not write to standard output: {error.strerror}")
    silence(sys.stdout.fileno())


def say(sentence: str) -> None:
    """Print *sentence*, whoever wrote parts of it, on one line."""
    from rafs.printable import printable  # here, since help is not to load a package of ours

    _print(f"nopull: {printable(without_secrets(' '.join(sentence.split())))}")


def without_secrets(text: str) -> str:
    """*text* with passwords in URLs, signed queries and authorisation headers blotted out."""
    import re

    text = re.sub(r"(?<=://)[^/\s@]+@", "…@", text)
    text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1?…", text)
    return re.sub(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", r"\1 …", text)


def silence(descriptor: int) -> None:
    """Have what is written to *descriptor* from now on lead nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def _print(line: str) -> None:
    try:
        click.echo(line.encode(), err=True)  # as bytes: UTF-8 in any locale
    except OSError:
        silence(sys.stderr.fileno())


def _is_of_printing(error: OSError) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == click.utils.__name__


def _shortage(error: Exception) -> str:
    """Which limit of this process *error* met, and where to raise it; else nothing."""
    if isinstance(error, MemoryError):
        return "this process gets no more memory: raise its limit (`ulimit -v`, or its control group's)"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        limits = "(`ulimit -u`, `ulimit -v`, or its control group's)"
        return f"this process gets no more threads: raise its limits {limits}"
    if type(error) is OSError and error.errno in (errno.EMFILE, errno.ENFILE):
        return "this process can have no more files open: raise its limit (`ulimit -n`)"
    return ""


def _os_sentence(error: OSError) -> str:
    """What the system said, without its number, of which file, and what to do about it."""
    if type(error).__module__ != "builtins" or error.strerror is None:
        return str(error)
    place = "the disk" if error.filename is None else os.fsdecode(error.filename)
    said = error.strerror[:1].lower() + error.strerror[1:]
    from chunk_store.free_room import FULL_ERRNOS, free_room

    if error.errno in FULL_ERRNOS:
        from pathlib import Path

        room = "" if error.filename is None else free_room(Path(place).absolute())
        return f"cannot write {place}: {said}{room}; free some there, or choose another place with --root"
    if error.errno == errno.EROFS:
        return f"cannot use {place}: {said}; choose another place with --root"
    if isinstance(error, PermissionError):
        return f"cannot use {place}: {said}; run it as a user who may, or choose another place with --root"
    return f"cannot use {place}: {said}"
