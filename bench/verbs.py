"""`nopull bench …` and the options that `./dev demo` shares with it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from builder.convert_verb import LARGEST_BATCH, Size

if TYPE_CHECKING:
    from bench.show import Wish

LINKS = {"loopback": ("loopback",), "20ms-200mbit": ("20ms-200mbit",), "both": ("loopback", "20ms-200mbit")}
DEFAULT_RUNS = 3
OPTIONS_FIRST = {"allow_interspersed_args": False}  # what follows CMD is the program's

Command = TypeVar("Command", bound=Callable[..., Any])


class _ResultFile(click.Path):
    """A file to be written when all is measured, which takes minutes: what could not be is refused before."""

    def __init__(self, *endings: str) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)
        self._endings = endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        super().convert(value, param, ctx)
        path = Path(value)
        if not path.parent.is_dir():
            self.fail(f"there is no directory {path.parent} to write it to", param, ctx)
        if self._endings and path.suffix not in self._endings:
            wanted = " or ".join(self._endings)
            self.fail(f"{path.name!r}: expected a name that ends with {wanted}", param, ctx)
        return path


_FILE = _ResultFile()
_PICTURE = _ResultFile(".png", ".svg")

EXAMPLES = """\b
Examples:
  nopull bench startup
  nopull bench startup --runs 5 --json startup.json --plot startup.png
  nopull bench startup --image docker://registry.example/app:1 --link 20ms-200mbit
  nopull bench startup --image docker://registry.example/app:1 --ready listening -- /app --port 80
"""


def _no_empty_word(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """Empty, as a shell's unset variable is, would be the default, which takes minutes to make."""
    if text == "":
        raise click.BadParameter("it is an empty word")
    return text


def _json_option(what: str) -> Callable[[Command], Command]:
    """Add `--json FILE`, for *what*; the command gets it as *json_file*."""
    return click.option(
        "--json", "json_file", type=_FILE, help=f"Write {what} and the conditions into this file."
    )


def comparison_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what both commands understand; the command gets it as one `Wish`, its first argument."""

    def with_wish(
        image: str | None,
        link: str,
        runs: int,
        ready: str | None,
        argv: tuple[str, ...],
        json_file: Path | None,
        plot_file: Path | None,
        **rest: Any,
    ) -> Any:
        from bench.show import Wish

        if ready is not None:
            try:
                re.compile(ready)
            except re.error as error:
                raise click.BadParameter(
                    f"{ready!r} is no regular expression: {error}", param_hint="--ready"
                ) from error
        return command(Wish(image, LINKS[link], runs, ready, argv, json_file, plot_file), **rest)

    with_wish.__doc__ = command.__doc__
    with_wish.__name__ = command.__name__
    for option in (
        click.argument("argv", nargs=-1, metavar="[CMD…]", type=click.UNPROCESSED),
        click.option("--plot", "plot_file", type=_PICTURE, help="Draw the result into this PNG or SVG file."),
        _json_option("every run"),
        click.option(
            "--ready",
            metavar="REGEX",
            help="The output line that says it is ready [default: the first, or its end without one].",
        ),
        click.option(
            "--runs",
            type=click.IntRange(1),
            default=DEFAULT_RUNS,
            show_default=True,
            help="Starts of each kind.",
        ),
        click.option(
            "--link",
            type=click.Choice(list(LINKS)),
            default="both",
            show_default=True,
            help="Over which link.",
        ),
        click.option(
            "--image",
            metavar="REF",
            callback=_no_empty_word,
            help="Compare this image, docker://… or oci:… [default: one of Debian].",
        ),
    ):
        with_wish = option(with_wish)
    return with_wish


GROUP_EXAMPLES = """\b
Examples:
  nopull bench startup --runs 5 --json startup.json
  nopull bench report startup.json --plot startup.svg
  nopull bench startup --help
"""


@click.group(epilog=GROUP_EXAMPLES)
def bench() -> None:
    """Measure what lazy starting brings on this machine."""


@bench.command(epilog=EXAMPLES, context_settings=OPTIONS_FIRST)
@comparison_options
def startup(wish: Wish) -> None:
    """Compare cold starts: nopull run, and containerd's pull and run, over the same link.

    Builds or fetches an image, starts a registry of its own, converts the image, then starts it lazily and
    by a full pull in turns, and prints medians. Leaves nothing running. Needs root for all of it; without
    root it mounts through FUSE and says what it left out.
    """
    from bench.narration import choose_narrator
    from bench.show import show

    show(wish, choose_narrator())


@bench.command(
    epilog="""\b
Examples:
  nopull bench convert
  nopull bench convert --image oci:layout:app --table --json convert.json
  nopull bench convert --image oci:layout:app --layers known
"""
)
@click.option(
    "--image", metavar="oci:DIR[:TAG]", callback=_no_empty_word,
    help="Convert this image [default: one of Debian].",
)
@click.option(
    "--runs", type=click.IntRange(1), default=DEFAULT_RUNS, show_default=True, help="The best one counts."
)
@click.option(
    "--layers",
    type=click.Choice(["as-they-are", "plain", "known"]),
    default="as-they-are",
    show_default=True,
    help="Convert the image with layers that are not compressed, or whose chunks are all known already.",
)
@click.option(
    "--compression-level", "level", type=click.IntRange(1, 22), metavar="N", help="As of nopull convert."
)
@click.option("--batch-size", type=Size(LARGEST_BATCH, power_of_two=False), metavar="SIZE", help="Likewise.")
@click.option("--table", is_flag=True, help="Also try chunk sizes, unit sizes and levels: 27 conversions.")
@_json_option("every conversion")
def convert(
    image: str | None,
    runs: int,
    layers: str,
    level: int | None,
    batch_size: int | None,
    table: bool,
    json_file: Path | None,
) -> None:
    """Measure conversion: speed, size, and what each of its parts costs alone.

    Runs `nopull convert` from and to image layouts on this machine; no network, no root.
    """
    from bench.convert import Choice, measure, result_lines, write_json
    from bench.convert_variants import Layers
    from bench.demo_image import build_demo_image, cache_directory

    name = image or build_demo_image(cache_directory(), tell=_say).reference
    given = {"level": level, "batch_size": batch_size}
    choice = Choice(**{name: value for name, value in given.items() if value is not None})
    found = measure(name, runs=runs, table=table, layers=Layers(layers), choice=choice, tell=_say)
    for line in result_lines(found):
        click.echo(line)
    if json_file is not None:
        write_json(found, json_file)


@bench.command(
    epilog="""\b
Example:
  nopull bench report startup.json --plot startup.svg
"""
)
@click.argument("result", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--plot", "plot_file", type=_PICTURE, help="Draw it into this PNG or SVG file as well.")
def report(result: Path, plot_file: Path | None) -> None:
    """Print the table of a result that `bench startup --json` wrote, and draw it."""
    from bench.result import read_result
    from bench.result_table import print_result

    found = read_result(result)
    print_result(found, sys.stdout)
    if plot_file is not None:
        from bench.plot import draw

        draw(found, plot_file)


@bench.command(
    epilog="""\b
Example:
  nopull bench kernel --json kernel.json
"""
)
@click.option("--runs", type=click.IntRange(1), default=15, show_default=True, help="Mounts of each kind.")
@_json_option("every measurement")
def kernel(runs: int, json_file: Path | None) -> None:
    """Measure kernel mounts: misses, mounting, a hundred mounts, readahead.

    Each beside the cost of its parts alone, in turns; with images and a registry of its own on loopback.
    Needs root, 6 GB of disk, and a kernel that asks before it reads (see `nopull mount --help`).
    """
    from bench.kernel import lines, measure

    _tell(measure(runs, _say), lines, json_file)


@bench.command(
    epilog="""\b
Example:
  nopull bench registry --runs 5 --json registry.json
"""
)
@click.option(
    "--runs", type=click.IntRange(1), default=5, show_default=True, help="Measurements of each kind."
)
@_json_option("every measurement")
def registry(runs: int, json_file: Path | None) -> None:
    """Compare reading from a registry with bare urllib3 and with curl.

    Small ranges on a warm connection and from 16 threads, a verified blob of 256 MB, and round trips; in
    turns, against a registry of its own on loopback. Prints quotients of medians.
    """
    from bench.registry import lines, measure

    _tell(measure(runs, _say), lines, json_file)


@bench.command(
    epilog="""\b
Example:
  nopull bench read --json read.json
"""
)
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Of what is repeated.")
@_json_option("every measurement")
def read(runs: int, json_file: Path | None) -> None:
    """Measure reading through both drivers and on ext4, beside the cost of the parts alone.

    Misses, 64 readers at once, files in the page cache, names, and an image over a base that is here; with
    images and a registry of its own on loopback. Needs root and 3 GB of disk.
    """
    from bench.read import lines, measure

    _tell(measure(runs, _say), lines, json_file)


@bench.command(
    epilog="""\b
Example:
  nopull bench mounts --json mounts.json
"""
)
@click.option(
    "--runs", type=click.IntRange(1), default=9, show_default=True, help="Kernel mounts of each kind."
)
@_json_option("every measurement")
def mounts(runs: int, json_file: Path | None) -> None:
    """Measure what mounts cost: memory of one server with many, time of the kernel's own.

    With images and a registry of its own on loopback. Needs root and 2 GB of disk.
    """
    from bench.mounts import lines, measure

    _tell(measure(runs, _say), lines, json_file)


@bench.command(
    epilog="""\b
Example:
  nopull bench whole --runs 3 --json whole.json
"""
)
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Starts of each kind.")
@_json_option("every start")
def whole(runs: int, json_file: Path | None) -> None:
    """Hold starts against a full pull's time: a program, a data program, a reader of every file.

    Over an emulated link of 20 ms and 200 Mbit/s, through both drivers; packages come from Debian and PyPI.
    Needs root.
    """
    from bench.whole import lines, measure

    _tell(measure(runs, _say), lines, json_file)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _tell(
    result: dict[str, Any], lines: Callable[[dict[str, Any]], Iterable[str]], json_file: Path | None
) -> None:
    """Write *result* to *json_file* if there is one, then print its *lines*."""
    if json_file is not None:
        import json

        json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for line in lines(result):
        click.echo(line)
