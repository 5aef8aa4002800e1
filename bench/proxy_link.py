"""A TCP proxy that delays and limits, for measuring without root.

It has round trips and one shared pipe for all connections, but neither slow start nor loss, so its
numbers flatter whoever opens many connections; published numbers come from `bench.link`. Runs as a
program (`python -m bench.proxy_link`), prints the port it listens on, ends on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.child import start_child, stop_child, tail
from bench.errors import BenchError
from bench.link_schedule import Direction, LinkShape

PIECE_BYTES = 16384
AHEAD_SECONDS = 0.008
START_SECONDS = 10.0


async def pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction, delay: float
) -> None:
    """Copy one direction of one connection; several pieces may be under way at once."""
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=1024)

    async def arrive() -> None:
        while True:
            due, piece = await under_way.get()
            await asyncio.sleep(max(0.0, due + delay - time.monotonic()))
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
        writer.write_eof()

    arriving = asyncio.create_task(arrive())
    try:
        while True:
            piece = await reader.read(PIECE_BYTES)
            sent_at = direction.admit(time.monotonic(), len(piece)) or time.monotonic()
            # Waiting here for the pipe is what makes the sender feel the limit. Not for each piece: the
            # event loop's clock has whole milliseconds, more than a piece takes.
            if (ahead := sent_at - time.monotonic()) > AHEAD_SECONDS:
                await asyncio.sleep(ahead - AHEAD_SECONDS / 2)
            await under_way.put((sent_at, piece))
            if not piece:
                break
        await arriving
    except OSError:
        writer.close()  # the other side has gone; so does this one
    finally:
        arriving.cancel()


async def serve(target: tuple[str, int], shape: LinkShape) -> None:
    """Listen on a free loopback port and forward to *target* until the process is ended."""
    # The delay is added after the pipe, and the pipe waits instead of dropping: TCP already ended here.
    pipe = LinkShape(0.0, shape.bits_per_second, queue_seconds=float("inf"))
    upward, downward = Direction(pipe), Direction(pipe)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * shape.delay_seconds)  # the handshake's round trip
        with contextlib.suppress(OSError), contextlib.closing(writer):
            far_reader, far_writer = await asyncio.open_connection(*target)
            with contextlib.closing(far_writer):
                await asyncio.gather(
                    pump(reader, far_writer, upward, shape.delay_seconds),
                    pump(far_reader, writer, downward, shape.delay_seconds),
                )

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def open_proxy(host: str, shape: LinkShape) -> Iterator[str]:
    """Start a proxy before *host* (`address:port`); yield its own `address:port`.

    Raises:
        BenchError: it did not start.
    """
    with tempfile.TemporaryDirectory(prefix="nopull-proxy-") as directory, contextlib.ExitStack() as undo:
        log = Path(directory) / "proxy.log"
        limits = [f"--delay={shape.delay_seconds}", f"--rate={shape.bits_per_second}"]
        child = start_child([sys.executable, "-P", "-m", "bench.proxy_link", host, *limits], stdout=log)
        undo.callback(stop_child, child)
        deadline = time.monotonic() + START_SECONDS
        while not (words := log.read_text(errors="replace").split()) or words[0] != "port":
            if child.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"starting the shaping proxy before {host}: it did not start: {tail(log)}")
            time.sleep(0.02)
        yield f"127.0.0.1:{words[1]}"


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", metavar="ADDRESS:PORT")
    parser.add_argument("--delay", type=float, required=True, help="one way, in seconds")
    parser.add_argument("--rate", type=float, required=True, help="bits per second")
    options = parser.parse_args()
    address, _, port = options.target.rpartition(":")
    asyncio.run(serve((address, int(port)), LinkShape(options.delay, options.rate)))


if __name__ == "__main__":
    main()
