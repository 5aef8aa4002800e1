"""`./dev demo`: the whole path on a real image, told step by step, with the numbers at the end."""

from __future__ import annotations

import dataclasses
import sys

import click

from bench.errors import BenchError
from bench.show import Wish, show
from bench.verbs import OPTIONS_FIRST, comparison_options

EXAMPLES = """\b
Examples:
  ./dev demo
  ./dev demo --image docker://registry.example/app:1
  ./dev demo --link loopback --runs 1 --keep
"""


@click.command(epilog=EXAMPLES, context_settings=OPTIONS_FIRST)
@click.option("--keep", is_flag=True, help="Leave registry and links running afterwards, until Ctrl-C.")
@comparison_options
def demo(wish: Wish, keep: bool) -> None:
    """Convert, publish and start a real image, lazily and by a full pull, and print what it took."""
    from bench.narration import choose_narrator

    show(dataclasses.replace(wish, keep=keep), choose_narrator())


def main() -> None:
    """Run the command; a failure is one line, Ctrl-C is quiet."""
    try:
        demo.main(prog_name="./dev demo", standalone_mode=False)
    except BenchError as error:
        sys.exit(f"demo: {error}")
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)


if __name__ == "__main__":
    main()
