"""Moves packets between two TUN devices in two network namespaces, late and not too fast.

Runs on its own (`python -m bench.link_mover`), as root, so that it competes with nobody for an
interpreter lock; `bench.link` starts and stops it. It prints `moving` when both devices exist and
ends on SIGTERM. The kernel's own TCP runs on top: handshakes, slow start and loss are real.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

from bench.link_schedule import Direction, LinkShape

CLONE_NEWNET = 0x40000000  # linux/sched.h
TUNSETIFF = 0x400454CA  # linux/if_tun.h, _IOW('T', 202, int)
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000  # no four bytes of packet information before each packet
IFREQ = struct.Struct("16sH22x")
PACKET_BYTES = 2048  # more than the MTU of 1500
BATCH_PACKETS = 64  # read at most so many before writing what is due
# While packets are under way the descriptors are looked at so often and not whenever one is readable:
# a wake-up for each packet (60 µs apart at 200 Mbit/s) cost 40 % of a core, which the measured
# programs then lacked; a tick costs 15 %.
TICK_SECONDS = 0.0002


def open_tun(namespace: str, device: str) -> int:
    """Create a TUN device in a named network namespace; return its non-blocking descriptor.

    Raises:
        OSError: no such namespace, no /dev/net/tun, or not root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(there, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"entering network namespace {namespace}")
        try:
            tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(tun, TUNSETIFF, IFREQ.pack(device.encode(), IFF_TUN | IFF_NO_PI))
        finally:
            if libc.setns(home, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "returning to the own network namespace")
    finally:
        os.close(there)
        os.close(home)
    return tun


def take_in(descriptor: int, direction: Direction, waiting: deque[tuple[float, bytes]]) -> None:
    """Read what has come, up to one batch, and note when each packet is due."""
    for _ in range(BATCH_PACKETS):
        try:
            packet = os.read(descriptor, PACKET_BYTES)
        except BlockingIOError:
            return
        # Asked for each packet: a batch takes long enough to matter at 200 Mbit/s (60 µs a packet).
        due = direction.admit(time.monotonic(), len(packet))
        if due is not None:
            waiting.append((due, packet))


def give_out(descriptor: int, waiting: deque[tuple[float, bytes]]) -> None:
    """Write what is due, to the nearest tick."""
    now = time.monotonic() + TICK_SECONDS / 2
    while waiting and waiting[0][0] <= now:
        try:
            os.write(descriptor, waiting.popleft()[1])
        except OSError as error:
            # EIO: the far end is not up yet, and the first packets come as soon as the near one is.
            if error.errno != errno.EIO:
                raise


def move(left: int, right: int, shape: LinkShape) -> None:
    """Move packets both ways until the process is ended."""
    to_right: deque[tuple[float, bytes]] = deque()
    to_left: deque[tuple[float, bytes]] = deque()
    rightward, leftward = Direction(shape), Direction(shape)
    while True:
        if to_right or to_left:
            time.sleep(TICK_SECONDS)
        else:
            select.select([left, right], [], [])
        take_in(left, rightward, to_right)
        take_in(right, leftward, to_left)
        give_out(right, to_right)
        give_out(left, to_left)


def main() -> None:
    """Read the command line, make the devices, move packets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("left", metavar="NAMESPACE")
    parser.add_argument("right", metavar="NAMESPACE")
    parser.add_argument("device", metavar="DEVICE")
    parser.add_argument("--delay", type=float, required=True, help="one way, in seconds")
    parser.add_argument("--rate", type=float, required=True, help="bits per second")
    parser.add_argument("--queue", type=float, required=True, help="seconds a packet may wait to be sent")
    options = parser.parse_args()
    left, right = open_tun(options.left, options.device), open_tun(options.right, options.device)
    print("moving", flush=True)
    try:
        move(left, right, LinkShape(options.delay, options.rate, options.queue))
    except OSError as error:  # a device was deleted with its namespace: the link is gone
        sys.exit(f"moving packets: {error}")


if __name__ == "__main__":
    main()
