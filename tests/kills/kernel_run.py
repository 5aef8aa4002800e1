"""Kill keeper, filler, or both, again and again, while readers read a kernel mount that is being filled.

    python -m tests.kills.kernel_run --kills 1000 --seed 1 --log kills.log

Each victim is stopped first, so that what the kill hits is known and not guessed: who waits for an answer
(readers whom the kernel has put to sleep for it), and which windows are half written. Then it is killed.
Wanted: never a wrong byte, nobody waits longer than 30 s, and no read fails while the keeper lives. When
all were killed, absent data is an error until `nopull ps` has been called, which this does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from bench.link_schedule import LinkShape
from bench.proxy_link import open_proxy
from erofs_fs.localised_file import LOCALISED, devices_of
from erofs_fs.pids import await_end
from launch.kernel_mounts.keeper_start import end_keeper, keeper_status
from tests.kills.reader import PROGRAM
from tests.launch.published import publish
from tests.support.command import CHECKOUT, COMMAND
from tests.support.debian_registry import DebianRegistry
from tests.support.images import image_of
from tests.support.trees import Entry, file, tree
from tests.system.busybox_image import BUSYBOX

MIB = 1 << 20
FILES, FILE_BYTES = 24, 3 * MIB
LINK = LinkShape(delay_seconds=0.004, bits_per_second=100e6)  # a window takes about 90 ms
READERS = 5
LONGEST_WAIT = 30.0  # seconds
VICTIMS = ("keeper", "filler", "both")
_WAITS_FOR_ANSWER = "fanotify_handle_event"


@dataclass
class Tally:
    """What happened."""

    kills: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    hit_waiting: int = 0  # kills while somebody waited for an answer
    hit_half_written: int = 0
    hit_either: int = 0
    reads: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by way
    wrong: int = 0
    failed: int = 0  # with the keeper alive
    failed_in_the_dark: int = 0  # after all were killed, before anybody was called
    longest_ms: int = 0
    rounds: int = 0
    complaints: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """For the log's last line."""
        return {**vars(self), "kills": dict(self.kills), "reads": dict(self.reads)}


class Run:
    """One image, one registry behind a slow link, rounds of mounting it absent."""

    def __init__(self, base: Path, seed: int) -> None:
        self.base = base
        self.random = random.Random(seed)
        self.seed = seed
        self.tally = Tally()
        self.root = base / "root"
        self.mount = base / "mount"
        self.right = base / "right"
        # Protects the tally and `dark`, which readers' threads use.
        self.lock = threading.Lock()
        self.dark_since: float | None = None
        self.dark_until = 0.0
        self.mount.mkdir()
        self.right.mkdir()
        self.lengths: dict[str, int] = {}  # of windows
        self.filler = 0  # process id, as the keeper has told it last

    def publish(self, host: str) -> None:
        content: list[Entry] = []
        for number in range(FILES):
            body = self.random.randbytes(FILE_BYTES)
            (self.right / f"f{number:02}").write_bytes(body)
            content.append(file(b"f%02d" % number, body))
        program = BUSYBOX.read_bytes() + self.random.randbytes(2 * MIB)
        (self.right / PROGRAM).write_bytes(program)
        content.append(file(PROGRAM.encode(), program, mode=0o755))
        image = image_of(tree(*content), chunk_size=256 << 10, batch_size=MIB)
        publish(image, f"docker://{host}/app:v1", self.base)

    def nopull(self, *words: str) -> None:
        subprocess.run(
            [*COMMAND, *words, "--root", str(self.root)], check=True, capture_output=True, timeout=120
        )

    @contextmanager
    def mounted(self, host: str) -> Iterator[None]:
        """The image mounted with nothing local."""
        # Mostly without a background: then nearly every read has to wait.
        how = self.random.choice([[], ["--no-background"], ["--no-background"], ["--no-background"]])
        self.nopull("mount", f"{host}/app:v1", str(self.mount), "--driver", "erofs", *how)
        self.tally.rounds += 1
        (image,) = self.root.glob(f"images/*/{LOCALISED}*")
        self.lengths = {str(device.id): device.length for device in devices_of(image)}
        try:
            yield
        finally:
            self.nopull("umount", "--lazy", str(self.mount))
            end_keeper(self.root)
            remove_store(self.root)

    @contextmanager
    def reading(self) -> Iterator[list[subprocess.Popen[str]]]:
        """Readers, whose verdicts are taken down."""
        readers = []
        threads = []
        for number in range(READERS):
            seed = f"{self.seed}-{self.tally.rounds}-{number}"
            reader = subprocess.Popen(
                [sys.executable, "-m", "tests.kills.reader", str(self.mount), str(self.right), seed],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            readers.append(reader)
            threads.append(threading.Thread(target=self._take_down, args=(reader,)))
            threads[-1].start()
        try:
            yield readers
        finally:
            for reader in readers:
                assert reader.stdin is not None
                reader.stdin.close()
            for reader, thread in zip(readers, threads, strict=True):
                thread.join(LONGEST_WAIT + 10)
                if thread.is_alive():
                    self._complain(f"reader {reader.pid} does not come back")
                    os.killpg(reader.pid, signal.SIGKILL)  # its children have its output, too
                reader.wait()
                assert reader.stdout is not None
                reader.stdout.close()

    def _take_down(self, reader: subprocess.Popen[str]) -> None:
        assert reader.stdout is not None
        for line in reader.stdout:
            way, _, _, _, verdict, taken, ended = line.split()
            began = float(ended) - int(taken) / 1000
            with self.lock:
                self.tally.reads[way] += 1
                self.tally.longest_ms = max(self.tally.longest_ms, int(taken))
                if verdict == "wrong":
                    self.tally.wrong += 1
                    self.tally.complaints.append(f"wrong: {line.strip()}")
                elif verdict != "right":
                    dark = self.dark_since is not None or began <= self.dark_until
                    self.tally.failed_in_the_dark += dark
                    self.tally.failed += not dark
                    if not dark:
                        self.tally.complaints.append(f"failed: {line.strip()}")

    def _complain(self, words: str) -> None:
        with self.lock:
            self.tally.complaints.append(words)

    def kill(self, victim: str, readers: list[subprocess.Popen[str]], log: TextIO) -> bool:
        """Kill whoever *victim* names as soon as it lives, and see what that hits; False: all is complete."""
        pids = self._await_pids(victim)
        if pids is None:
            return False
        time.sleep(self.random.random() * 0.12)
        stopped = [pid for pid in pids if _send(pid, signal.SIGSTOP)]
        if len(stopped) < len(pids) or not process_lives(self.filler):
            for pid in stopped:
                _send(pid, signal.SIGCONT)
            return True  # it has ended by itself meanwhile
        waiting = sum(_waits(reader.pid) for reader in readers)
        half = half_written(self.root, self.lengths)
        with self.lock:
            if victim == "both":
                self.dark_since = time.monotonic()
            self.tally.kills[victim] += 1
            self.tally.hit_waiting += waiting > 0
            self.tally.hit_half_written += half > 0
            self.tally.hit_either += bool(waiting or half)
        for pid in stopped:
            _send(pid, signal.SIGKILL)
        while any(map(process_lives, stopped)):
            time.sleep(0.001)  # else it is taken for one that could still help
        number = sum(self.tally.kills.values())
        log.write(f"{number} {victim} waiting={waiting} half_written={half}\n")
        log.flush()
        if victim == "both":
            time.sleep(self.random.random() * 0.2)
            self.nopull("ps")
            with self.lock:
                self.dark_since, self.dark_until = None, time.monotonic()
        return True

    def _await_pids(self, victim: str) -> list[int] | None:
        deadline = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < deadline:
            status = keeper_status(self.root)
            if status is not None and status["watched"] == 0:
                return None
            # Without a filler the keeper's death is that of all.
            if status is not None and process_lives(status["filler"]):
                self.filler = status["filler"]
                found = {"keeper": [status["pid"]], "filler": [status["filler"]]}
                # The filler first: it would start another keeper at once.
                return found.get(victim) or [status["filler"], status["pid"]]
            time.sleep(0.01)
        self._complain(f"there is no {victim} within {LONGEST_WAIT:g} s")
        return None


def half_written(root: Path, lengths: Mapping[str, int]) -> int:
    """How many windows of the store are neither empty nor, by their *lengths*, complete."""
    return sum(0 < path.stat().st_size < lengths.get(path.name, 0) for path in root.glob("windows/*/*"))


def remove_store(root: Path) -> None:
    """Remove a store whose last checkpoint may still be on its way to the disk, by a child of nobody's."""
    until = time.monotonic() + LONGEST_WAIT
    while True:
        try:
            return shutil.rmtree(root)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _send(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def process_lives(pid: int | None) -> bool:
    """Whether the process is there, and no zombie."""
    return pid is not None and not await_end(pid, 0)


def _waits(pid: int) -> bool:
    """Whether the process, or a child of it, sleeps until the kernel is answered."""
    pids = [pid]
    with suppress(OSError):
        pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    for one in pids:
        with suppress(OSError):
            if Path(f"/proc/{one}/wchan").read_text() == _WAITS_FOR_ANSWER:
                return True
    return False


def run(base: Path, kills: int, seed: int, log: TextIO, *, victims: tuple[str, ...] = VICTIMS) -> Tally:
    """Do it in *base*, an empty directory; one line per kill to *log*, and the tally at its end."""
    this = Run(base, seed)
    with ExitStack() as undo:
        registry = undo.enter_context(DebianRegistry())
        this.publish(registry.host)
        host = undo.enter_context(open_proxy(registry.host, LINK))
        while sum(this.tally.kills.values()) < kills:
            with this.mounted(host), this.reading() as readers:
                while sum(this.tally.kills.values()) < kills:
                    if not this.kill(this.random.choice(victims), readers, log):
                        break
                this._await_pids("filler")  # what was killed last is followed, too
    log.write(json.dumps({"seed": seed, **this.tally.to_json()}) + "\n")
    return this.tally


def main(run: Callable[[Path, int, int, TextIO], Any], description: str | None) -> int:
    """The command line of *run*."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nopull-kills-") as base, options.log.open("w") as log:
        tally = run(Path(base), options.kills, options.seed, log)
    print(json.dumps(tally.to_json(), indent=1))
    return 1 if tally.wrong or tally.failed or tally.complaints else 0


if __name__ == "__main__":
    sys.exit(main(run, __doc__))
