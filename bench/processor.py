"""What the processors did for a program, and how soon they wake one that waits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import Final

from erofs_fs.pids import stat_fields

_TICK: Final = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Processor time of process *pid* so far, in steps of a hundredth or so."""
    fields = stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / _TICK


def round_trips(count: int) -> list[float]:
    """Microseconds until an idle process has answered, each time: it is woken for it, and we are."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = "import socket; s = socket.socket(fileno=0)\nwhile word := s.recv(8): s.send(word)"
    child = subprocess.Popen([sys.executable, "-S", "-c", program], stdin=there.fileno())
    there.close()
    found = []
    with here:
        for _ in range(count):
            time.sleep(0.005)  # as long as the registry lets us wait
            began = time.perf_counter()
            here.send(b"x")
            here.recv(8)
            found.append(1e6 * (time.perf_counter() - began))
    child.wait()
    return found[1:]  # the first waits for the program's start
