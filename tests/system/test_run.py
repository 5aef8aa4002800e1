"""`nopull run` with a real runtime: what runs, as whom, how it ends, and that nothing of it stays behind."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chunk_store.keeper_client import KEEPER
from launch import mounts
from launch.kernel_mounts.keeper_start import end_keeper, keeper_status
from tests.chunk_store.blobs import eventually
from tests.system.busybox_image import BUSYBOX, write_layout
from tests.system.test_lazy_kernel_mount import SIGNALLED

pytestmark = pytest.mark.system

CHECKOUT = Path(__file__).parents[2]
PATIENCE = 30.0
OURS = f"nopull-{os.getpid()}-"  # containers' names
"""Seconds after which something that should happen is taken not to; never part of a promise."""

Completed = subprocess.CompletedProcess[str]


def nopull(*arguments: str, **how: Any) -> Completed:
    return subprocess.run(
        [sys.executable, "-m", "nopull", *arguments],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=2 * PATIENCE, check=False, **how,
    )


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not BUSYBOX.exists():
        pytest.skip("needs the package busybox-static")
    base = tmp_path_factory.mktemp("image")
    write_layout(base / "plain", {
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo from-cmd"], "Env": ["PATH=/bin", "COLOUR=blue"],
        "WorkingDir": "/opt",
    })
    converted = f"oci:{base}/lazy:v1"
    done = nopull("convert", f"oci:{base}/plain:v1", converted)
    assert done.returncode == 0, done.stderr
    return converted


def our_processes(root: Path) -> list[str]:
    """Command lines of living processes that name *root*, and of runc's and ours whose files lie below it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            open_files = [str(link.readlink()) for link in (entry / "fd").iterdir()]
        except OSError:
            continue
        if str(root) in words or any(name.startswith(str(root)) for name in open_files):
            found.append(words)
    return found


def leftovers(root: Path) -> list[str]:
    containers = [f"directory {path}" for path in (root / "containers").glob("*")]
    mounts = [f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if str(root) in line]
    return containers + mounts + [f"process {line}" for line in our_processes(root)]


def groups() -> list[str]:
    """The cgroups of our containers; other tests run some at the same time."""
    return [name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith(OURS)]


@dataclass(frozen=True)
class Runner:
    """Runs containers of one image with one root, shown by one driver."""

    image: str
    root: Path
    driver: str

    def arguments(self, *arguments: str) -> list[str]:
        own = ["--root", str(self.root), "--driver", self.driver, "--name", f"{OURS}{os.urandom(6).hex()}"]
        return ["run", *own, *arguments]

    def __call__(self, *command: str, options: tuple[str, ...] = (), **how: Any) -> Completed:
        return nopull(*self.arguments(*options, self.image, *command), **how)

    def start(self, *command: str, options: tuple[str, ...] = (), **how: Any) -> subprocess.Popen[str]:
        """A running container whose command has printed its first line."""
        child = subprocess.Popen(
            [sys.executable, "-m", "nopull", *self.arguments(*options, self.image, *command)],
            cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child


@pytest.fixture(params=["fuse", "erofs"])
def run(image: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Runs containers; whatever a test did, nothing of them may be left."""
    runner = Runner(image, tmp_path / "root", request.param)
    yield runner
    # The keeper and the filler of a store stay for some seconds, for whom comes next.
    assert not (runner.root / KEEPER).exists() or end_keeper(runner.root)
    assert eventually(lambda: not leftovers(runner.root)), leftovers(runner.root)
    assert eventually(lambda: not groups()), groups()


def test_the_images_command_runs_and_its_output_and_code_come_back(run: Runner) -> None:
    done = run()
    assert (done.stdout, done.stderr, done.returncode) == ("from-cmd\n", "", 0)
    assert run("exit 7").returncode == 7
    assert run("echo oops >&2; exit 3").stderr == "oops\n"


def test_an_entrypoint_takes_the_place_of_the_images_own(run: Runner) -> None:
    done = run("one", "two", options=("--entrypoint", "echo"))
    assert (done.stdout, done.returncode) == ("one two\n", 0)
    assert run("echo", "bare", options=("--entrypoint", "")).stdout == "bare\n"


def test_environment_comes_from_the_image_the_user_and_the_host(run: Runner) -> None:
    options = ("-e", "COLOUR=red", "-e", "FROM_HOST", "-e", "EMPTY=")
    done = run("env", options=options, env={**os.environ, "FROM_HOST": "yes", "NOT_PASSED": "x"})
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert found["COLOUR"] == "red"
    assert found["FROM_HOST"] == "yes"
    assert found["EMPTY"] == ""
    assert found["PATH"] == "/bin"
    assert found["HOME"] == "/root"
    assert "NOT_PASSED" not in found


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("app", "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)"),
        ("1000:2000", "uid=1000(app) gid=2000(extra) groups=2000(extra)"),
        ("1234", "uid=1234 gid=0(root) groups=0(root)"),
    ],
)
def test_a_user_is_one_of_the_images(run: Runner, user: str, expected: str) -> None:
    assert run("id", options=("-u", user)).stdout.strip() == expected


def test_an_ordinary_user_of_the_image_can_read_it_and_write_where_it_may(run: Runner) -> None:
    script = "cat /opt/plain && echo x > /tmp/file && cat /tmp/file; echo y > /opt/new"
    done = run(script, options=("-u", "app"))
    assert done.stdout == "not a program\nx\n"
    assert "Permission denied" in done.stderr


def test_the_working_directory_is_the_images_or_is_made(run: Runner) -> None:
    assert run("pwd").stdout == "/opt\n"
    assert run("pwd", options=("-w", "/made/for/this")).stdout == "/made/for/this\n"
    refused = run("pwd", options=("-w", "/opt/plain"))
    assert refused.returncode == 125
    assert "working directory /opt/plain" in refused.stderr


def test_what_a_container_writes_is_gone_with_it(run: Runner) -> None:
    done = run("rm /opt/plain; echo y > /opt/sub; echo x > /bin/new; ls /opt")
    assert done.stdout == "no-interpreter\nsub\n"
    assert run("ls /opt /bin/new").stdout == "/opt:\nno-interpreter\nplain\n"


def test_a_read_only_container_cannot_write_to_its_root(run: Runner) -> None:
    done = run("touch /opt/new", options=("--read-only",))
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr
    assert run("echo x > /dev/shm/file", options=("--read-only",)).returncode == 0


def test_standard_input_is_empty_unless_asked_for(run: Runner) -> None:
    assert run("cat; echo end", input="text\n").stdout == "end\n"
    assert run("cat; echo end", options=("-i",), input="text\n").stdout == "text\nend\n"


def test_name_resolver_and_network_are_the_hosts_but_processes_its_own(run: Runner) -> None:
    done = run("cat /proc/sys/kernel/hostname; cat /etc/resolv.conf; echo $$; cat /proc/net/dev")
    assert done.stdout.startswith(f"{os.uname().nodename}\n{Path('/etc/resolv.conf').read_text()}1\n")
    for line in Path("/proc/net/dev").read_text().splitlines()[2:]:
        assert line.split(":")[0] in done.stdout


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (("absent",), 127, "cannot run absent"),
        (("/opt/absent",), 127, "cannot run /opt/absent"),
        (("/opt/plain",), 126, "not an executable file"),
        (("/opt",), 126, "not an executable file"),
    ],
)
def test_a_command_that_cannot_run_has_dockers_exit_code(
    run: Runner, command: tuple[str, ...], code: int, says: str
) -> None:
    done = run(*command, options=("--entrypoint", ""))
    assert done.returncode == code
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_script_without_its_interpreter_does_not_run(run: Runner) -> None:
    done = run(options=("--entrypoint", "/opt/no-interpreter"))
    assert done.returncode not in (0, 125)
    assert "no such file" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("-u", "stranger"), "'stranger'"),
        (("-t",), "there is none here"),
        (("--runtime", "/absent/runc"), "no such executable"),
        (("--name", "a/b"), "cannot name a container"),
        (("--no-such-option",), "see `nopull run --help`"),
    ],
)
def test_a_refusal_is_125_and_one_sentence(run: Runner, options: tuple[str, ...], says: str) -> None:
    done = run("true", options=options, stdin=subprocess.DEVNULL)
    assert done.returncode == 125
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_image_that_is_not_there_is_125_and_leaves_nothing(run: Runner, tmp_path: Path) -> None:
    done = nopull(*run.arguments(f"oci:{tmp_path}/absent:v1", "true"))
    assert done.returncode == 125
    assert done.stderr.startswith("nopull: ")


def test_a_runtime_that_fails_is_125_and_leaves_nothing(run: Runner, tmp_path: Path) -> None:
    broken = tmp_path / "runtime"
    broken.write_text(
        '#!/bin/sh\nfor word; do [ "$last" = --log ] && log=$word; last=$word; done\n'
        'echo \'{"level": "error", "msg": "the disk is on fire"}\' > "$log"\nexit 1\n'
    )
    broken.chmod(0o755)
    done = run("true", options=("--runtime", str(broken)))
    assert done.returncode == 125
    assert "the disk is on fire" in done.stderr


TRAPS = (
    'for s in TERM INT HUP QUIT USR1 USR2; do trap "echo $s; exit 9" $s; done;'
    " echo ready; while :; do sleep 0.05; done"
)
COUNT_INTERRUPTS = (
    "n=0; trap 'n=$((n+1))' INT; echo ready; while [ $n = 0 ]; do sleep 0.05; done; sleep 0.3; echo times-$n"
)


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"])
def test_signals_reach_the_command_and_its_code_comes_back(run: Runner, name: str) -> None:
    child = run.start(TRAPS)
    child.send_signal(getattr(signal, f"SIG{name}"))
    output, errors = child.communicate(timeout=PATIENCE)
    assert (output, errors, child.returncode) == (f"{name}\n", "", 9)


def test_a_command_that_a_signal_kills_ends_in_128_plus_its_number(run: Runner) -> None:
    assert run("sh -c 'kill -9 $$'; exit $?").returncode == 137


def test_several_containers_of_one_image_run_side_by_side(run: Runner) -> None:
    children = [run.start("echo ready; sleep 0.3; cat /opt/plain") for _ in range(3)]
    for child in children:
        assert child.communicate(timeout=PATIENCE) == ("not a program\n", "")
        assert child.returncode == 0


def test_a_running_containers_mount_can_be_explained(run: Runner) -> None:
    child = run.start(TRAPS, options=("--name", f"{OURS}explained"))
    lower = run.root / "containers" / f"{OURS}explained" / "lower"
    done = nopull("explain", "--json", "--root", str(run.root), str(lower))
    child.terminate()
    child.communicate(timeout=PATIENCE)
    facts = json.loads(done.stdout)
    assert (facts["driver"], facts["state"]) == (run.driver, "mounted")
    roles = [one["role"] for one in facts["pids"]]
    assert roles == ["server"] if run.driver == "fuse" else roles[-1:] == ["keeper"]
    # What the hot list has brought before, the kernel does not ask for.
    assert facts["progress"]["touched_windows" if run.driver == "fuse" else "windows_present"] > 0
    assert facts["resident_bytes"] > 0
    assert [layer["lazy"] for layer in facts["layers"]] == [True, False]


def test_a_name_can_be_used_once_at_a_time(run: Runner) -> None:
    child = run.start(TRAPS, options=("--name", f"{OURS}once"))
    refused = run("true", options=("--name", f"{OURS}once"))
    assert refused.returncode == 125
    assert f"called {OURS}once" in refused.stderr
    child.terminate()
    child.communicate(timeout=PATIENCE)
    assert run("true", options=("--name", f"{OURS}once")).returncode == 0


def test_what_a_killed_run_leaves_the_next_one_removes(run: Runner) -> None:
    child = run.start("echo ready; while :; do sleep 0.05; done")
    child.kill()
    child.wait()
    assert list((run.root / "containers").iterdir())
    assert run("true").returncode == 0
    # Only now is everyone gone who could have written to these.
    child.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_container_whose_mount_server_ends_has_its_own_code_still(
    run: Runner, signum: signal.Signals
) -> None:
    child = run.start("echo ready; read x; exit 5", options=("-i",), stdin=subprocess.PIPE)
    if run.driver == "fuse":
        (record,) = (json.loads(path.read_bytes()) for path in (run.root / "mounts").glob("*.json"))
        pids = [record["pids"]["server"]]
    else:
        status = keeper_status(run.root)
        assert status is not None
        pids = [pid for pid in (status["filler"], status["pid"]) if pid]
    for pid in pids:
        os.kill(pid, signum)
    _, errors = child.communicate("go on\n", timeout=PATIENCE)
    # It may need a page of its program that nobody can bring any more.
    assert child.returncode in (5, 128 + signal.SIGBUS)
    assert "nopull" not in errors


def test_interrupted_before_the_container_runs_it_leaves_nothing(run: Runner, tmp_path: Path) -> None:
    slow = tmp_path / "slow-runtime"
    slow.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexec sleep 60\n")
    slow.chmod(0o755)
    child = subprocess.Popen(
        [sys.executable, "-m", "nopull", *run.arguments("--runtime", str(slow), run.image, "true")],
        cwd=CHECKOUT,
    )
    assert eventually((tmp_path / "started").exists)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=PATIENCE) == 128 + signal.SIGINT


# nopull, which hears that its terminal is closed when it has just prepared the container.
HANGS_UP = """
import os, signal, sys
import launch.containers.run, nopull
write = launch.containers.run._write_spec
def written(*words):
    os.kill(os.getpid(), signal.SIGHUP)
    write(*words)
launch.containers.run._write_spec = written
sys.exit(nopull.main(sys.argv[1:]))
"""


def test_a_run_that_was_told_to_survive_its_terminal_does_while_it_prepares_and_runs(run: Runner) -> None:
    words = [sys.executable, "-c", HANGS_UP, *run.arguments(run.image, "echo ready; sleep 0.5; exit 5")]
    with subprocess.Popen(["nohup", *words], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGHUP)
        assert child.wait(timeout=PATIENCE) == 5


def read_terminal(descriptor: int) -> str:
    """All a terminal shows until its other side is closed."""
    shown = b""
    while select.select([descriptor], [], [], PATIENCE)[0]:
        try:
            piece = os.read(descriptor, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    return shown.decode(errors="replace")


# A FUSE server ends with whoever has started it.
@pytest.mark.parametrize("run", ["erofs"], indirect=True)
def test_interrupted_when_the_mount_has_just_appeared_it_leaves_nothing(run: Runner) -> None:
    program = [sys.executable, "-c", SIGNALLED, "launch.kernel_mounts.kernel_mount", "attach"]
    program += [str(int(signal.SIGTERM))]
    words = [*program, *run.arguments(run.image, "true")]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 128 + signal.SIGTERM, done
    assert mounts.records(run.root) == []


def test_a_terminal_is_the_containers_and_ours_is_as_before(run: Runner) -> None:
    child, descriptor = pty.fork()
    if child == 0:
        os.chdir(CHECKOUT)
        asked = "tty; read x; echo got-$x; exit 5"
        words = shlex.join([sys.executable, "-m", "nopull", *run.arguments("-it", run.image, asked)])
        compare = '[ "$before" = "$(stty -g)" ] && echo same-terminal'
        os.execv("/bin/sh", ["sh", "-c", f"before=$(stty -g); {words}; echo code-$?; {compare}"])
    os.write(descriptor, b"typed\n")
    shown = read_terminal(descriptor)
    os.waitpid(child, 0)
    os.close(descriptor)
    assert "/dev/pts/0" in shown or "/dev/console" in shown
    assert "got-typed" in shown
    assert "code-5" in shown
    assert "same-terminal" in shown


def test_ctrl_c_at_a_terminal_reaches_a_container_without_one_once(run: Runner) -> None:
    child, descriptor = pty.fork()
    if child == 0:
        os.chdir(CHECKOUT)
        words = [sys.executable, "-m", "nopull", *run.arguments(run.image, COUNT_INTERRUPTS)]
        os.execv(words[0], words)
    shown = ""
    while "ready" not in shown:
        shown += os.read(descriptor, 4096).decode()
    os.write(descriptor, b"\x03")
    shown += read_terminal(descriptor)
    os.waitpid(child, 0)
    os.close(descriptor)
    assert "times-1" in shown
