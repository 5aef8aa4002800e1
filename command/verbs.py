"""The verbs of `nopull`, loaded only when they are used, and what its help says of all of them.

No work of its own: starting the interpreter and click is all that `nopull --help` may cost.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

LONGEST_READER_SECONDS = 3600  # longer than anybody waits who is not forgotten
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
        "run": ("launch.containers.run_verb", "run", "Run a container of an image."),
        "keeper": (
            "launch.kernel_mounts.keeper_verbs",
            "keeper",
            "Look after what fills kernel mounts; seldom needed.",
        ),
        "pull": ("launch.pull_verb", "pull", "Fetch all of an image, to mount and run it without network."),
    },
    "Look": {
        "check": ("launch.images.check_verb", "check", "Check an image's structure and digests."),
        "inspect": ("launch.images.inspect_verb", "inspect", "Tell what an image is made of."),
        "diff": ("launch.images.diff_verb", "diff", "Tell how one converted image differs from another."),
        "explain": ("launch.explain_verb", "explain", "Tell what is lazy, what is not, and why."),
    },
    "Cache and measure": {
        "cache": ("chunk_store.cache_verbs", "cache", "Look at what is kept on this machine."),
        "bench": ("bench.verbs", "bench", "Measure start-up against a full pull."),
    },
}
VERBS = {verb: entry for verbs in VERB_GROUPS.values() for verb, entry in verbs.items()}

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
  129 terminal closed, 130 interrupted, 143 terminated.

\b
Environment:
  NOPULL_ROOT   where state and cache live (default: /var/lib/nopull for root,
                ${XDG_CACHE_HOME:-~/.cache}/nopull for others)
  NOPULL_CREDS  an account, as --creds; arguments can be seen by others
  NOPULL_HOSTS_DIR, HTTPS_PROXY, NO_PROXY
                mirrors as containerd's certs.d describes them, and proxies

`nopull VERB --help` shows a verb's options, with an example.
"""


@dataclass(slots=True)
class Invocation:
    """What `command.start` needs to know about this call after it failed: set while click parses."""

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


def _refuse_nonsense(environment: Mapping[str, str]) -> None:
    """Return if the variables that processes behind the verbs go by are well: nobody sees these fail."""
    seconds = environment.get("NOPULL_READER_SECONDS")
    if seconds:
        try:
            known = 0 < float(seconds) <= LONGEST_READER_SECONDS
        except ValueError:
            known = False
        if not known:
            wanted = f"a number of seconds up to {LONGEST_READER_SECONDS}"
            raise click.UsageError(f"NOPULL_READER_SECONDS is {seconds!r}, expected {wanted}")
    library = environment.get("NOPULL_FUSE_LIBRARY")
    if library and library != "libfuse2":
        raise click.UsageError(f"NOPULL_FUSE_LIBRARY is {library!r}, expected libfuse2, or nothing")


def version() -> str:
    """The version of the checkout this file is in, else of the installed distribution."""
    here = Path(__file__).resolve().parent.parent
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
    _refuse_nonsense(os.environ)
    import logging

    from launch.log_lines import TextLines

    lines = logging.StreamHandler()
    lines.setFormatter(TextLines("nopull: %(levelname)s: %(message)s"))
    logging.basicConfig(level=log_level.upper(), handlers=[lines])
    # urllib3 logs whole request lines at debug, and a redirect's query is a signature, a credential.
    logging.getLogger("urllib3").setLevel(max(logging.INFO, logging.getLogger().level))
