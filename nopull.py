"""The command `nopull`: a click group whose verbs are loaded only when they are used.

It holds what every verb shares – the table of verbs, the one table from errors to exit codes, the log level,
what is printed when something fails – and no work of its own. Help for the group must not import a verb:
starting the interpreter and click is all that `nopull --help` may cost.
"""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

LOG_LEVELS = ("debug", "info", "warning", "error")

# verb: (module, attribute, what it does); grouped as the help shows them.
VERB_GROUPS: dict[str, dict[str, tuple[str, str, str]]] = {
    "Build": {
        "convert": ("builder.convert_verb", "convert", "Make an image lazily loadable and publish it."),
    },
    "Mount and run": {
        "mount": ("launch.mount_verbs", "mount", "Show an image as a directory before its data is here."),
        "umount": ("launch.mount_verbs", "umount", "Take such a directory away again."),
        "ps": ("launch.mount_verbs", "ps", "List what is mounted and how much of it is local."),
        "run": ("launch.run_verb", "run", "Run a container of an image."),
        "keeper": ("launch.keeper_verbs", "keeper", "Look after what fills kernel mounts; seldom needed."),
        "pull": ("launch.pull_verb", "pull", "Fetch all of an image, to mount and run it without network."),
    },
    "Look": {
        "check": ("launch.check_verb", "check", "Check an image's structure and digests."),
        "inspect": ("launch.inspect_verb", "inspect", "Tell what an image is made of."),
        "diff": ("launch.diff_verb", "diff", "Tell how one converted image differs from another."),
        "explain": ("launch.explain_verb", "explain", "Tell what is lazy, what is not, and why."),
    },
    "Cache and measure": {
        "cache": ("chunk_store.cache_verbs", "cache", "Look at what is kept on this machine."),
        "bench": ("bench.verbs", "bench", "Measure start-up against a full pull."),
    },
}
VERBS = {verb: entry for verbs in VERB_GROUPS.values() for verb, entry in verbs.items()}

OTHER = 1
USAGE = 2
UNREACHABLE = 3
UNAUTHORISED = 4
NOT_FOUND = 5
BROKEN = 6
MOUNT_IMPOSSIBLE = 7
NO_PERMISSION = 8
DISK_FULL = 9
RUN_FAILED = 125
COMMAND_NOT_EXECUTABLE = 126
COMMAND_NOT_FOUND = 127
INTERRUPTED = 130
TERMINATED = 143

# Errors by "module.Class"; the nearest class of an error's ancestry that is listed decides. Names instead of
# classes: a table of classes would have to import every package.
EXIT_CODES: dict[str, int] = {
    "registry_client.errors.ReferenceInvalid": USAGE,
    "registry_client.errors.Unreachable": UNREACHABLE,
    "registry_client.errors.ResponseInvalid": UNREACHABLE,
    "registry_client.errors.Unauthorized": UNAUTHORISED,
    "registry_client.errors.NotFound": NOT_FOUND,
    "registry_client.errors.DigestMismatch": BROKEN,
    "registry_client.errors.MediaTypeUnknown": BROKEN,
    "registry_client.errors.ManifestInvalid": BROKEN,
    "registry_client.errors.RangeInvalid": BROKEN,
    "registry_client.errors.LayoutForbidden": NO_PERMISSION,
    "registry_client.errors.LayoutFull": DISK_FULL,
    "registry_client.errors.LayoutInvalid": BROKEN,
    "registry_client.errors.RegistryError": OTHER,
    "rafs.errors.RafsError": BROKEN,
    "chunk_store.errors.ChunkUnavailable": UNREACHABLE,
    "chunk_store.errors.ChunkCorrupt": BROKEN,
    "chunk_store.errors.StoreFull": DISK_FULL,
    "chunk_store.errors.StoreForbidden": NO_PERMISSION,
    "chunk_store.errors.StoreWithoutRoom": DISK_FULL,
    "chunk_store.errors.WindowsWrong": OTHER,
    "chunk_store.errors.StoreError": OTHER,
    "builder.errors.SpoolFull": DISK_FULL,
    "builder.errors.LayerInvalid": BROKEN,
    "builder.errors.LayerUnsupported": BROKEN,
    "builder.errors.SourceUnsupported": BROKEN,
    "builder.errors.PrefetchInvalid": USAGE,
    "builder.errors.BuildError": OTHER,
    "fuse_fs.errors.FuseError": MOUNT_IMPOSSIBLE,
    "erofs_fs.errors.ErofsForbidden": NO_PERMISSION,
    "erofs_fs.errors.ErofsError": MOUNT_IMPOSSIBLE,
    "launch.run_errors.RuntimeMissing": MOUNT_IMPOSSIBLE,
    "launch.run_errors.RootNeeded": NO_PERMISSION,
    "launch.run_errors.CommandNotFound": COMMAND_NOT_FOUND,
    "launch.run_errors.CommandNotExecutable": COMMAND_NOT_EXECUTABLE,
    "launch.errors.ImageNotConverted": BROKEN,
    "launch.errors.ImageInvalid": BROKEN,
    "launch.errors.ImageUnsound": BROKEN,
    "launch.errors.RegistryRefuses": UNAUTHORISED,
    "launch.errors.RegistrySilent": UNREACHABLE,
    "launch.errors.ImageIncomplete": MOUNT_IMPOSSIBLE,
    "launch.errors.MountImpossible": MOUNT_IMPOSSIBLE,
    "launch.errors.ServerFailed": MOUNT_IMPOSSIBLE,
    "launch.errors.MetricsMissing": MOUNT_IMPOSSIBLE,
    "launch.errors.MetricsUnservable": MOUNT_IMPOSSIBLE,
    "launch.errors.NotMounted": NOT_FOUND,
    "launch.errors.LaunchError": OTHER,
    "bench.errors.ProgramMissing": MOUNT_IMPOSSIBLE,
    "bench.errors.RootNeeded": NO_PERMISSION,
    "bench.errors.BenchError": OTHER,
    "builtins.PermissionError": NO_PERMISSION,
    "builtins.OSError": OTHER,
}

# Of these the verb has told everything, on standard output; only the exit code is left.
TOLD_ERRORS = frozenset({
    "chunk_store.errors.WindowsWrong",
    "launch.errors.ImageUnsound",
    "launch.errors.RegistryRefuses",
    "launch.errors.RegistrySilent",
})  # fmt: skip

FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})

EPILOG = """\b
Examples:
  Convert an image, from one registry to another:
    nopull convert docker://registry.example/app:1 docker://registry.example/app:1-lazy
  Run a container of it while its data still travels:
    nopull run registry.example/app:1-lazy
  Look into it without running anything:
    nopull mount registry.example/app:1-lazy /mnt
    nopull explain /mnt
    nopull umount /mnt

\b
Images are named as skopeo does:
  docker://host/repo:tag (or bare), oci:DIR[:tag], oci-archive:FILE[:tag],
  docker-archive:FILE, rafs:BOOTSTRAP

\b
Exit codes:
  0  done                          5  no such image, tag or blob
  1  another failure               6  image broken or not understood
  2  wrong usage                   7  cannot mount or run here
  3  registry not reached          8  no permission
  4  not authorised                9  disk full
  `nopull run` exits as its container does; 125 when nopull itself failed,
  126 when the command cannot be executed, 127 when it is not there.
  130 interrupted, 143 terminated.

\b
Environment:
  NOPULL_ROOT   where state and cache live (default: /var/lib/nopull for root,
                ${XDG_CACHE_HOME:-~/.cache}/nopull for others)
  NOPULL_CREDS  an account, as --creds; arguments can be seen by others
  NOPULL_HOSTS_DIR, HTTPS_PROXY, NO_PROXY
                mirrors as containerd's certs.d describes them, and proxies

`nopull VERB --help` shows a verb's options, with an example.
"""


class Terminated(BaseException):
    """SIGTERM came; a BaseException, so that every `finally` tidies up and no `except Exception` stops it."""


@dataclass(slots=True)
class Invocation:
    """What `main` needs to know about this call after it failed: set while click parses."""

    verb: str | None = None
    log_level: str = "warning"


class VerbGroup(click.Group):
    """Lists verbs from the table; imports the module of the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = VERBS.get(cmd_name)
        if entry is None:
            return None
        if isinstance(ctx.obj, Invocation):
            ctx.obj.verb = cmd_name
            ctx.obj.log_level = ctx.params.get("log_level", ctx.obj.log_level)
        module, attribute, _ = entry
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f": did you mean `{near[0]}`?" if near else ""
            raise click.UsageError(f"there is no verb `{args[0]}`{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in VERB_GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(verb, text) for verb, (_, _, text) in verbs.items()], col_max=10)


def version() -> str:
    """The version of the checkout this file is in, else of the installed distribution."""
    here = Path(__file__).resolve().parent
    if (here / "setup.py").exists():
        return (here / "VERSION").read_text(encoding="ascii").strip()
    from importlib.metadata import version as installed_version

    return installed_version("nopull")


def _print_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        click.echo(f"nopull {version()}")
        ctx.exit()


@click.group(
    cls=VerbGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--log-level", type=click.Choice(LOG_LEVELS), default="warning", show_default=True,
    help="What is logged to standard error; debug adds tracebacks to errors.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Show the version and exit.",
)
def cli(log_level: str) -> None:
    """Start containers before their image has been downloaded.

    nopull converts OCI images to a lazily loadable form, publishes them to any registry, and mounts them so
    that only what a container touches travels first; the rest follows in the background.
    """
    import logging

    logging.basicConfig(level=log_level.upper(), format="nopull: %(levelname)s: %(message)s")
    # urllib3 logs whole request lines at debug, and a redirect's query is a signature, a credential.
    logging.getLogger("urllib3").setLevel(max(logging.INFO, logging.getLogger().level))


def exit_code(error: BaseException) -> int:
    """The exit code for *error*: a full disk by its errno, others by the nearest listed class above them."""
    if isinstance(error, OSError) and error.errno in FULL_ERRNOS:
        return DISK_FULL
    for ancestor in type(error).__mro__:
        code = EXIT_CODES.get(_full_name(ancestor))
        if code is not None:
            return code
    return OTHER


def main(args: Sequence[str] | None = None) -> int:
    """Run one `nopull` command line (by default this process's) and return its exit code; never raises."""
    invocation = Invocation()
    # Else all that dies with the interpreter is searched for cycles: a tenth of a second after a conversion.
    atexit.register(gc.freeze)
    _open_standard_streams()
    try:
        _raise_on_sigterm()
        returned = cli.main(args, "nopull", standalone_mode=False, obj=invocation)
        code = returned if isinstance(returned, int) else 0
    except Terminated:
        code = TERMINATED
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as asked:
        click.echo(asked.format_message(), err=True)
        code = asked.exit_code
    except click.ClickException as refused:
        _say(_usage_sentence(refused))
        code = RUN_FAILED if invocation.verb == "run" else refused.exit_code
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else OTHER
    except Exception as error:  # noqa: BLE001 - the outermost boundary: nothing may end in a bare traceback
        if _full_name(type(error)) not in TOLD_ERRORS:
            _report(error, invocation.log_level)
        code = exit_code(error)
        if invocation.verb == "run" and code not in (COMMAND_NOT_EXECUTABLE, COMMAND_NOT_FOUND):
            code = RUN_FAILED
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


def _raise_on_sigterm() -> None:
    import signal
    import threading

    def terminate(signum: int, frame: Any) -> None:
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)


def _usage_sentence(refused: click.ClickException) -> str:
    sentence = refused.format_message()
    if isinstance(refused, click.UsageError) and refused.ctx is not None:
        return f"{sentence.rstrip('.')} (see `{refused.ctx.command_path} --help`)"
    return sentence


def _is_ours(error: Exception) -> bool:
    return any(_full_name(ancestor) in EXIT_CODES for ancestor in type(error).__mro__)


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _report(error: Exception, log_level: str) -> None:
    if log_level == "debug":
        import traceback

        click.echo(without_secrets("".join(traceback.format_exception(error)).rstrip()), err=True)
    sentence = _os_sentence(error) if isinstance(error, OSError) else " ".join(str(error).split())
    if isinstance(error, OSError) and _is_of_printing(error):
        _say(f"could not write to standard output: {error.strerror}")
        _silence(sys.stdout.fileno())
    elif _is_ours(error):
        _say(sentence or type(error).__name__)
    else:
        name = type(error).__name__
        _say(f"unexpected {name}: {sentence}; this is a defect, `nopull --log-level debug …` shows where")


def _is_of_printing(error: OSError) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == click.utils.__name__


def _os_sentence(error: OSError) -> str:
    """What the system said, without its number, of which file, and what to do about it."""
    if type(error).__module__ != "builtins" or error.strerror is None:
        return " ".join(str(error).split())
    place = "the disk" if error.filename is None else os.fsdecode(error.filename)
    said = error.strerror[:1].lower() + error.strerror[1:]
    if error.errno in FULL_ERRNOS:
        return f"cannot write {place}: {said}; free some there, or choose another place with --root"
    if error.errno == errno.EROFS:
        return f"cannot use {place}: {said}; choose another place with --root"
    if isinstance(error, PermissionError):
        return f"cannot use {place}: {said}; run it as a user who may, or choose another place with --root"
    return f"cannot use {place}: {said}"


def without_secrets(text: str) -> str:
    """*text* with passwords in URLs, signed queries and authorisation headers blotted out."""
    import re

    text = re.sub(r"(?<=://)[^/\s@]+@", "…@", text)
    text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1?…", text)
    return re.sub(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", r"\1 …", text)


def _say(sentence: str) -> None:
    shown = f"nopull: {without_secrets(sentence)}"
    try:
        raw = shown.encode(errors="surrogateescape")  # paths are bytes, and shown as they are
    except UnicodeEncodeError:  # what else has surrogates comes from a JSON document
        raw = shown.encode(errors="backslashreplace")
    try:
        click.echo(raw, err=True)
    except OSError:
        _silence(sys.stderr.fileno())


def _flushed(code: int) -> int:
    """Flush standard output now: at interpreter exit a reader that went away would cost an ugly message."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout.fileno())
    except OSError as error:
        _say(f"could not write to standard output: {error.strerror}")
        _silence(sys.stdout.fileno())
        return code or exit_code(error)
    return code


def _silence(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main())
