"""The whole comparison from nothing: image, registry, conversion, starts, table; nothing is left behind.

Serves the two commands that people type, `nopull bench startup` and `./dev demo`; they differ in what they
say on the way.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench import demo_image
from bench.contestants import Contestant, FullPull, LazyStart
from bench.errors import BenchError
from bench.narration import Narrator
from bench.portable import Download, LazyReading
from bench.result import Result, Run
from bench.result_table import print_result
from bench.stage import (
    LAZY_TAG,
    PLAIN_TAG,
    Stage,
    convert,
    describe_image,
    image_command,
    open_stage,
    publish,
)
from bench.startup import Comparison, compare
from registry_client.sizes import megabytes

DEMO_READY = f"^{demo_image.READY} "
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Wish:
    """What to compare.

    *image* None: the demo's own. *ready* None: the demo's line, or any line if an image is given. *argv*
    replaces the image's command; *links* are names of `bench.stage` routes.
    """

    image: str | None
    links: Sequence[str]
    runs: int
    ready: str | None
    argv: Sequence[str]
    json_file: Path | None
    plot_file: Path | None
    keep: bool = False


def show(wish: Wish, narrator: Narrator) -> Result:
    """Do all of it, print the table to standard output, write the files asked for, and return the result.

    Ctrl-C, SIGTERM and SIGHUP end it in order: everything that was started is stopped and unmounted first.

    Raises:
        BenchError: something could not be had, started, or written.
    """
    with _ended_in_order(), contextlib.ExitStack() as undo:
        with narrator.step("image"):
            source = wish.image or _demo_reference(narrator)
        with narrator.step("registry and links"):
            stage = undo.enter_context(open_stage(wish.links))
        with narrator.step(f"pushing {wish.image or 'the demo image'}"):
            publish(stage, source)
        narrator.say("nopull convert, from registry to registry:")
        convert(stage)
        image = describe_image(stage, wish.image or "demo image")
        narrator.say(
            f"{image.layers} layers, {megabytes(image.compressed_bytes)} compressed; "
            f"converted: {megabytes(image.converted_bytes)}"
        )
        comparison = Comparison(
            contestants=choose_contestants(stage, wish, narrator),
            routes=stage.routes,
            runs=wish.runs,
            ready=_ready_pattern(wish),
        )
        total = len(comparison.contestants) * len(comparison.routes) * comparison.runs
        with narrator.count("starts", total) as counter:
            result = compare(stage, image, comparison, on_run=lambda run: counter.done(_told(run)))
        print_result(result, sys.stdout)
        _write_files(result, wish)
        if wish.keep:
            _wait_for_signal(stage, narrator)
    return result


def choose_contestants(stage: Stage, wish: Wish, narrator: Narrator) -> list[Contestant]:
    """Return who takes part for this user; say who does not and why."""
    if os.geteuid() == 0:
        return [
            LazyStart(stage, wish.argv),
            LazyStart(stage, wish.argv, "fuse"),
            FullPull(stage, wish.argv),
        ]
    narrator.say(
        "not root, so left out: the container (files of a FUSE mount are read instead), containerd (a plain "
        "download instead), the link with the kernel's own TCP (a shaping proxy instead)"
    )
    files = () if wish.image is None else (list(wish.argv) or image_command(stage))[:1]
    return [LazyReading(stage, files), Download(stage)]


def _demo_reference(narrator: Narrator) -> str:
    return demo_image.build_demo_image(demo_image.cache_directory(), tell=narrator.say).reference


def _ready_pattern(wish: Wish) -> re.Pattern[str] | None:
    if os.geteuid() != 0:
        return re.compile(DEMO_READY)
    if wish.ready is not None:
        return re.compile(wish.ready)
    return re.compile(DEMO_READY) if wish.image is None else None


def _told(run: Run) -> str:
    return f"{run.contestant} over {run.link}: ready in {run.seconds:.2f} s"


def _write_files(result: Result, wish: Wish) -> None:
    if wish.json_file is not None:
        try:
            wish.json_file.write_text(result.to_json(), encoding="utf-8")
        except OSError as error:
            raise BenchError(f"writing the result to {wish.json_file}: {error.strerror}") from error
    if wish.plot_file is not None:
        from bench.plot import draw

        draw(result, wish.plot_file)


def _wait_for_signal(stage: Stage, narrator: Narrator) -> None:
    """Leave everything running until Ctrl-C."""
    route = stage.routes[-1]
    inside = f"nsenter --net=/var/run/netns/{route.namespace} " if route.namespace else ""
    narrator.say("kept running until Ctrl-C; for example:")
    for tag in (PLAIN_TAG, LAZY_TAG):
        narrator.say(f"  {inside}nopull inspect --plain-http {route.host}/{stage.repository}:{tag}")
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Turn the first signal that would end us into an exception; ignore the next ones while we tidy up."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        for later in ENDING_SIGNALS:
            signal.signal(later, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
