"""The command `nopull`: its first moment. Its verbs are in `command`, what they do in their packages.

Imports nothing at its top: the key that interrupts it may be pressed while modules load, which takes longer
than some verbs do.
"""

from __future__ import annotations

_INTERRUPTED = 130  # `command.exit_codes` may not be here yet


def main(args: list[str] | tuple[str, ...] | None = None) -> int:
    """Run one command line (by default this process's) and return its exit code; never raises."""
    try:
        from command.start import start

        return start(args)
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    import sys

    sys.exit(main())
