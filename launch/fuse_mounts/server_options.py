"""What can be said of a mount server on the command lines that start one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from launch.log_lines import JSON, TEXT

Function = TypeVar("Function", bound=Callable[..., Any])


def server_options(function: Function) -> Function:
    """Give *function* `driver`, `metrics_address` (host and port, or None) and `log_format`."""
    for option in (
        click.option(
            "--log-format", type=click.Choice([TEXT, JSON]), default=TEXT, show_default=True,
            help="Form of the mount server's log lines.",
        ),
        click.option(
            "--metrics-address", metavar="HOST:PORT", callback=_address,
            help="Serve counters for Prometheus there (needs the extra `metrics`); port 0: any free one.",
        ),
        click.option(
            "--driver", type=click.Choice(["auto", "fuse", "erofs"]), default="auto", show_default=True,
            is_eager=True,  # `_address` looks at it
            help="What shows the image: a server of ours (fuse), which works everywhere, or the kernel "
            "itself (erofs), which auto takes where it does all that is relied on.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def _address(ctx: click.Context, _: click.Parameter, text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    if ctx.params["driver"] == "erofs":
        raise click.BadParameter("it is for the driver fuse: others have no server per mount")
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(f"{text!r} is not HOST:PORT, as in 127.0.0.1:9100")
    return host.strip("[]"), int(port)
