"""How a mount server's log lines look: text for people, or one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from chunk_store.seldom import Seldom
from rafs.printable import printable

TEXT, JSON = "text", "json"
# What our code hands to the logger besides the sentence (`extra=`), by the names it has there.
FIELDS = ("path",)


# From one place of the code in a minute. Whoever knows what repeats itself lets less of it through; this is
# for what a registry, a disk or whoever reads may provoke that nobody has thought of.
MOST = 100


def log_to_stderr(lines: logging.Formatter) -> None:
    """Have this process's log on its standard error, in that form, and nothing repeated without end."""
    logging.basicConfig(stream=sys.stderr)
    output = logging.getLogger().handlers[0]
    output.setFormatter(lines)
    output.addFilter(Bounded())


class Bounded(logging.Filter):
    """Lets MOST lines of each place in the code pass in a minute; the next says how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = Seldom(MOST)

    def filter(self, record: logging.LogRecord) -> bool:
        left_out = self._seldom.passes(f"{record.pathname}:{record.lineno}", time.monotonic())
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} more like it were left out before it)"
            record.args = None
        return left_out is not None


def formatter(kind: str, mount_id: str) -> logging.Formatter:
    """The form for TEXT or JSON."""
    if kind == JSON:
        return JsonLines(mount_id)
    return TextLines("%(asctime)s %(levelname)s %(name)s: %(message)s")


class TextLines(logging.Formatter):
    """A record is a line, but for its traceback, whoever wrote what is in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - its name in the library
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(map(printable, super().formatException(ei).splitlines()))


def drop_if_empty(log_path: Path) -> None:
    """Remove a log that has no line."""
    with suppress(FileNotFoundError):
        if not log_path.stat().st_size:
            log_path.unlink()


class JsonLines(logging.Formatter):
    """Time (UTC), level, logger, message and mount in every line; others where there are any."""

    def __init__(self, mount_id: str) -> None:
        super().__init__()
        self._mount_id = mount_id

    def format(self, record: logging.LogRecord) -> str:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{second}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "mount": self._mount_id,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
