"""Kill the servers of two FUSE mounts on one store, again and again, while readers read both of them.

    python -m tests.kills.fuse_run --kills 1000 --seed 1 --log kills.log

Each victim is stopped first, so that what the kill hits is known and not guessed: how many requests of the
kernel it has not answered, and which windows are half written. Then it is killed, and its mount made again as
anybody would. An EROFS mount is held on the store all the while, whose readers get the store's bytes without
any server. Wanted: never a wrong byte, nobody waits longer than 30 s, and no read fails while its server
lives.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from bench.proxy_link import open_proxy
from erofs_fs.pids import await_end
from launch import mounts
from launch.mounts import MountRecord
from rafs.windows import cut_windows
from tests.kills.held import held
from tests.kills.kernel_run import LINK, LONGEST_WAIT, Run, half_written, main, remove_store
from tests.support.command import CHECKOUT, COMMAND
from tests.support.debian_registry import DebianRegistry

MOUNTS = ("one", "other")
HELD = "held"
READERS = {"one": 3, "other": 3, HELD: 1}
VICTIMS = ("one", "other", "both")
CONNECTIONS = "fusectl"  # the kernel's own view of FUSE mounts
# What a read of a mount without its server gives; of the held mount, what is absent.
_DEAD = {"107", "103", "5", "2"}  # ENOTCONN, ECONNABORTED, EIO; ENOENT between the mounts


@dataclass
class FuseTally:
    """What happened."""

    kills: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    hit_unanswered: int = 0  # kills while the kernel waited for an answer of the victim
    hit_half_written: int = 0
    hit_either: int = 0
    reads: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    wrong: int = 0
    failed: int = 0  # with the server alive
    failed_in_the_dark: int = 0  # after its server was killed, before the mount was made again
    absent: int = 0  # reads of the held mount that found nothing
    longest_ms: int = 0
    rounds: int = 0
    complaints: list[str] = field(default_factory=list)

    @property
    def killed(self) -> int:
        """Kills, of one server or both."""
        return sum(self.kills.values())

    def to_json(self) -> dict[str, Any]:
        """For the log's last line."""
        reads = {where: dict(ways) for where, ways in self.reads.items()}
        return {**vars(self), "kills": dict(self.kills), "reads": reads}


class FuseRun:
    """One image, one registry behind a slow link, rounds of mounting it twice with nothing local."""

    def __init__(self, base: Path, seed: int) -> None:
        self.base = base
        self.seed = seed
        self.random = random.Random(seed)
        self.image = Run(base, seed)  # its image, and what is right
        self.root = base / "root"
        self.tally = FuseTally()
        self.records: dict[str, MountRecord] = {}
        self.lengths: dict[str, int] = {}  # of windows
        # Protects the tally and the times between a server's death and its mount's return.
        self.lock = threading.Lock()
        self.dark: dict[str, list[tuple[float, float]]] = {where: [] for where in MOUNTS}

    def place(self, where: str) -> Path:
        return self.base / f"at-{where}"

    def mount(self, *places: str) -> None:
        """Mount there, at once."""
        mounting = {}
        for where in places:
            self.place(where).mkdir(exist_ok=True)
            words = ["mount", self.reference, str(self.place(where)), "--driver", "fuse", "--json", *self.how]
            whole = [*COMMAND, *words, "--root", str(self.root)]
            mounting[where] = subprocess.Popen(whole, stdout=subprocess.PIPE, text=True)
        for where, command in mounting.items():
            said, _ = command.communicate(timeout=120)
            assert command.returncode == 0, where
            self.records[where] = mounts.from_json(json.loads(said))

    @contextmanager
    def round(self, host: str) -> Iterator[None]:
        """Both mounts and the held one, with nothing local."""
        self.reference = f"docker://{host}/app:v1"
        # Mostly without a background: then nearly every read has to wait.
        self.how = self.random.choice([[], ["--no-background"], ["--no-background"], ["--no-background"]])
        self.tally.rounds += 1
        self.mount(*MOUNTS)
        with held(self.reference, self.root, self.place(HELD)):
            try:
                self.lengths = self._windows()
                yield
            finally:
                for where in MOUNTS:
                    self._umount(where)
        remove_store(self.root)

    def _windows(self) -> dict[str, int]:
        from launch.images.lazy_image import open_image
        from registry_client.options import RegistryOptions
        from registry_client.reference import parse_reference

        image = open_image(parse_reference(self.reference), RegistryOptions(), self.root)
        image.close()
        return {window.id: window.length for meta in image.blobs for window in cut_windows(meta)}

    def _umount(self, where: str) -> None:
        words = ["umount", "--lazy", str(self.place(where)), "--root", str(self.root)]
        subprocess.run([*COMMAND, *words], check=True, capture_output=True, timeout=120)
        # A child of nobody's: it holds the store until the last reader is gone.
        await_end(self.records[where].server, LONGEST_WAIT)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Readers of all three, whose verdicts are taken down."""
        started = []
        for where, count in READERS.items():
            for number in range(count):
                seed = f"{self.seed}-{self.tally.rounds}-{where}-{number}"
                words = [str(self.place(where)), str(self.image.right), seed]
                reader = subprocess.Popen(
                    [sys.executable, "-m", "tests.kills.reader", *words],
                    cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    start_new_session=True,
                )  # fmt: skip
                thread = threading.Thread(target=self._take_down, args=(reader, where))
                thread.start()
                started.append((reader, thread))
        try:
            yield
        finally:
            for reader, _ in started:
                assert reader.stdin is not None
                reader.stdin.close()
            for reader, thread in started:
                thread.join(LONGEST_WAIT + 10)
                if thread.is_alive():
                    self.complain(f"reader {reader.pid} does not come back")
                    os.killpg(reader.pid, signal.SIGKILL)
                reader.wait()
                assert reader.stdout is not None
                reader.stdout.close()

    def _take_down(self, reader: subprocess.Popen[str], where: str) -> None:
        assert reader.stdout is not None
        for line in reader.stdout:
            way, _, _, _, verdict, taken, ended = line.split()
            began = float(ended) - int(taken) / 1000
            with self.lock:
                tally = self.tally
                tally.reads[where][way] += 1
                tally.longest_ms = max(tally.longest_ms, int(taken))
                if verdict == "right":
                    continue
                dark = any(
                    start <= float(ended) and began <= end for start, end in self.dark.get(where, ())
                )
                if verdict == "wrong":
                    tally.wrong += 1
                elif where == HELD and verdict == "5":
                    tally.absent += 1
                    continue
                elif dark and verdict in _DEAD:
                    tally.failed_in_the_dark += 1
                    continue
                else:
                    tally.failed += 1
                tally.complaints.append(f"{where}: {line.strip()}")

    def complain(self, words: str) -> None:
        with self.lock:
            self.tally.complaints.append(words)

    def kill(self, victim: str, log: TextIO) -> None:
        """Kill the servers that *victim* names, see what that hits, and mount again."""
        time.sleep(self.random.random() * 0.12)
        victims = MOUNTS if victim == "both" else (victim,)
        pids = [self.records[where].server for where in victims]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        unanswered = sum(self._unanswered(self.records[where]) for where in victims)
        half = half_written(self.root, self.lengths)
        with self.lock:
            self.tally.kills[victim] += 1
            self.tally.hit_unanswered += unanswered > 0
            self.tally.hit_half_written += half > 0
            self.tally.hit_either += bool(unanswered or half)
            for where in victims:
                self.dark[where].append((time.monotonic(), math.inf))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            if not await_end(pid, LONGEST_WAIT):
                self.complain(f"server {pid} survives its kill")
        log.write(f"{self.tally.killed} {victim} unanswered={unanswered} half_written={half}\n")
        log.flush()
        time.sleep(self.random.random() * 0.1)
        self.mount(*victims)
        with self.lock:
            for where in victims:
                self.dark[where][-1] = (self.dark[where][-1][0], time.monotonic())

    def _unanswered(self, record: MountRecord) -> int:
        minor = record.device.partition(":")[2]
        with suppress(OSError):
            return int((self.base / CONNECTIONS / minor / "waiting").read_text())
        return 0

    def nearly_complete(self) -> bool:
        """Whether so little is absent that readers seldom wait."""
        present = sum(
            path.stat().st_size == self.lengths.get(path.name) for path in self.root.glob("windows/*/*")
        )
        return present > 0.85 * len(self.lengths)


@contextmanager
def _connections(base: Path) -> Iterator[None]:
    place = base / CONNECTIONS
    place.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "none", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def run(base: Path, kills: int, seed: int, log: TextIO) -> FuseTally:
    """Do it in *base*, an empty directory; one line per kill to *log*, and the tally at its end."""
    this = FuseRun(base, seed)
    with ExitStack() as undo:
        registry = undo.enter_context(DebianRegistry())
        this.image.publish(registry.host)
        host = undo.enter_context(open_proxy(registry.host, LINK))
        undo.enter_context(_connections(base))
        while this.tally.killed < kills:
            with this.round(host), this.reading():
                while this.tally.killed < kills and not this.nearly_complete():
                    this.kill(this.random.choice(VICTIMS), log)
    log.write(json.dumps({"seed": seed, **this.tally.to_json()}) + "\n")
    return this.tally


if __name__ == "__main__":
    sys.exit(main(run, __doc__))
