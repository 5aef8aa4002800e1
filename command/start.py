"""One command line of `nopull`, from this process's signals and streams to its exit code."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from command import exit_codes, failures
from command.verbs import Invocation, cli


class Terminated(BaseException):
    """A signal came; a BaseException, so that every `finally` tidies up and no `except` keeps it."""

    def __init__(self, code: int = exit_codes.TERMINATED) -> None:
        super().__init__(code)
        self.code = code


def start(args: Sequence[str] | None = None) -> int:
    """Run one `nopull` command line (by default this process's) and return its exit code; tells failures."""
    invocation = Invocation()
    # Else all that dies with the interpreter is searched for cycles: a tenth of a second after a conversion.
    atexit.register(gc.freeze)
    _open_standard_streams()
    try:
        _raise_on_signals()
        returned = cli.main(args, "nopull", standalone_mode=False, obj=invocation)
        code = returned if isinstance(returned, int) else 0
    except Terminated as ended:
        code = ended.code
    except (KeyboardInterrupt, click.Abort):
        code = exit_codes.INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as asked:
        click.echo(asked.format_message(), err=True)
        code = asked.exit_code
    except click.ClickException as refused:
        failures.report_usage(refused)
        code = exit_codes.RUN_FAILED if invocation.verb == "run" else refused.exit_code
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else exit_codes.OTHER
    except Exception as error:  # noqa: BLE001 - the outermost boundary: nothing may end in a bare traceback
        if exit_codes.full_name(type(error)) not in exit_codes.TOLD_ERRORS:
            failures.report(error, invocation.log_level)
        code = exit_codes.exit_code(error)
        if invocation.verb == "run" and code not in exit_codes.OF_COMMANDS:
            code = exit_codes.RUN_FAILED
    return _flushed(code)


def _open_standard_streams() -> None:
    """What was closed by whoever started us leads nowhere, instead of into the next file that is opened."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _raise_on_signals() -> None:
    import signal
    import threading

    def terminate(signum: int, frame: Any) -> None:
        raise Terminated

    def hang_up(signum: int, frame: Any) -> None:
        # Shell and kernel both tell that a terminal is gone; the second must not end the tidying up.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise Terminated(exit_codes.HUNG_UP)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(signal.SIGHUP, hang_up)


def _flushed(code: int) -> int:
    """Flush standard output now: at interpreter exit a reader that went away would cost an ugly message."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        failures.silence(sys.stdout.fileno())
    except OSError as error:
        failures.report_output(error)
        return code or exit_codes.exit_code(error)
    return code
