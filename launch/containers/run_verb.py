"""`nopull run`: the command line of `launch.containers.run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chunk_store.root_option import root_option
from launch.fuse_mounts.server_options import server_options
from launch.images.image_options import platform_option
from launch.store_options import store_options
from registry_client.options_cli import registry_options

if TYPE_CHECKING:
    from registry_client.options import RegistryOptions
    from registry_client.platform import Platform


def _variable(text: str) -> str:
    """To be the `type` of an option."""
    if not text.partition("=")[0]:
        raise click.BadParameter(f"{text!r} names no variable")
    return text


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog="""\b
Examples:
  nopull run registry.example/app:1-lazy
  nopull run -it registry.example/app:1-lazy sh
  nopull run -e MODE=test --read-only oci:image:latest python3 -m app
  echo 1+1 | nopull run -i --entrypoint bc registry.example/tools:1

\b
Exit code: the container's own, 128 + n when signal n killed it,
  125 nopull failed, 126 the command cannot be executed, 127 it is not there.
""",
)
@click.argument("image")
@click.argument("command", nargs=-1, metavar="[CMD…]", type=click.UNPROCESSED)
@click.option(
    "-e", "--env", multiple=True, type=_variable, metavar="NAME[=VALUE]",
    help="Set an environment variable; a bare NAME takes the value it has here. Repeatable.",
)
@click.option("-i", "--interactive", is_flag=True, help="Connect standard input (otherwise it is empty).")
@click.option("-t", "--tty", is_flag=True, help="Give the container a terminal.")
@click.option("--entrypoint", metavar="CMD", help="Run CMD, not the image's entrypoint and command.")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="Run as a user of the image, or a number.")
@click.option("-w", "--workdir", metavar="DIR", help="Start in this directory; made when it is missing.")
@click.option("--read-only", is_flag=True, help="Let the container write to its own /dev and /dev/shm only.")
@click.option("--name", metavar="NAME", help="Call the container NAME [default: something unique].")
@click.option("--runtime", metavar="PATH", help="The OCI runtime [default: runc, else crun, from PATH].")
@platform_option
@store_options
@server_options
@root_option
@registry_options
@click.pass_context
def run(
    ctx: click.Context,
    image: str,
    command: tuple[str, ...],
    env: tuple[str, ...],
    interactive: bool,
    tty: bool,
    entrypoint: str | None,
    user: str | None,
    workdir: str | None,
    read_only: bool,
    name: str | None,
    runtime: str | None,
    platform: Platform | None,
    cache_size: int | None,
    isolate: bool,
    driver: str,
    metrics_address: tuple[str, int] | None,
    log_format: str,
    root: Path,
    registry: RegistryOptions,
) -> None:
    """Run a container of IMAGE while its data still travels.

    What runs, as whom, where and with which environment is as the image's config says, by docker's rules;
    what follows IMAGE takes the place of its command. The container uses the host's network, resolv.conf
    and hosts file. It can write everywhere; what it wrote is gone when it ends. Needs root and runc (or
    crun).
    """
    from launch.containers.oci_spec import Wanted
    from launch.containers.run import RunRequest, run_image
    from launch.images.image_request import ImageRequest
    from registry_client.reference import parse_reference

    wanted = Wanted(
        command=command,
        entrypoint=entrypoint,
        env=env,
        working_dir=workdir,
        user=user,
        terminal=tty,
        read_only=read_only,
    )
    request = RunRequest(
        image=ImageRequest(parse_reference(image), registry, platform, cache_size=cache_size),
        root=root,
        wanted=wanted,
        name=name,
        runtime=runtime,
        attach_input=interactive or tty,
        driver=driver,
        isolate=isolate,
        metrics_address=metrics_address,
        log_format=log_format,
    )
    ctx.exit(run_image(request))
