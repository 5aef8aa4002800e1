"""Programs that are choosy about their file system, in a writable overlay over a mount of either driver."""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch import mounts
from launch.containers import overlay
from launch.umount import unmount
from tests.support.command import call, nopull, output_of
from tests.system.busybox_image import BUSYBOX, write_layout

pytestmark = pytest.mark.system

DPKG = ("/usr/bin/dpkg", "/usr/bin/dpkg-query", "/usr/bin/dpkg-deb", "/usr/bin/dpkg-split", "/usr/bin/tar")
MAIN_C = '#include "answer.h"\n#include <stdio.h>\nint main(void) { printf("%d\\n", answer()); return 0; }\n'


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program}")


def git(repository: Path, *words: str) -> str:
    account = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost", "-c", "safe.directory=*")
    return call("git", *account, *words, cwd=repository, GIT_CONFIG_NOSYSTEM="1", HOME="/nonexistent")


def make_sources(base: Path) -> None:
    """A repository, a Python package and a C program below *base*, as far as there are programs for them."""
    package = base / "python" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from package.number import NUMBER\n")
    (package / "number.py").write_text("NUMBER = 41 + 1\n")
    source = base / "c"
    source.mkdir()
    (source / "answer.h").write_text("int answer(void);\n")
    (source / "answer.c").write_text('#include "answer.h"\nint answer(void) { return 42; }\n')
    (source / "main.c").write_text(MAIN_C)
    if shutil.which("git") is None:
        return
    repository = base / "repository"
    repository.mkdir()
    git(repository, "init", "-q", "-b", "main")
    for number in range(3):
        for name in range(40):
            (repository / f"file-{name}").write_text(f"{number} {name}\n" * 200)
        git(repository, "add", ".")
        git(repository, "commit", "-q", "-m", f"number {number}")
    git(repository, "gc", "-q")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A converted image of `make_sources`."""
    base = tmp_path_factory.mktemp("image")
    make_sources(base / "sources")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(base / "sources", arcname=".")
    write_layout(base / "plain", {}, packed.getvalue())
    output_of("convert", f"oci:{base}/plain:v1", f"oci:{base}/lazy:v1")
    return f"oci:{base}/lazy:v1"


@pytest.fixture(params=["fuse", "erofs"])
def merged(request: pytest.FixtureRequest, image: str, tmp_path: Path) -> Iterator[Path]:
    """The image with a writable layer over it."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    root = tmp_path / "root"
    command = ["mount", "--driver", request.param, image, tmp_path / "lower", "--root", root]
    done = nopull(*command)
    if request.param == "erofs" and done.returncode in (7, 8):
        pytest.skip(f"no kernel mount here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    try:
        overlay.mount_overlay(tmp_path)
        yield tmp_path / "merged"
    finally:
        overlay.unmount(tmp_path / "merged")
        for record in mounts.records(root):
            unmount(record.mountpoint, root)


def test_git_reads_commits_and_collects(merged: Path) -> None:
    needs("git")
    repository = merged / "repository"
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "log", "--format=%s").split("\n")[:3] == ["number 2", "number 1", "number 0"]
    (repository / "file-7").write_text("changed\n")
    (repository / "file-8").unlink()
    (repository / "file-9").rename(repository / "moved")
    assert sorted(git(repository, "status", "--porcelain").split("\n")[:-1]) == [
        " D file-8", " D file-9", " M file-7", "?? moved",
    ]  # fmt: skip
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "on top")
    git(repository, "checkout", "-q", "HEAD~2")
    assert (repository / "file-7").read_text() == "1 7\n" * 200
    git(repository, "checkout", "-q", "main")
    git(repository, "gc", "-q", "--prune=now")
    git(repository, "fsck", "--strict")
    assert git(repository, "status", "--porcelain") == ""


def test_python_imports_and_writes_its_byte_code(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)  # of whoever runs the tests: beside the source
    program = "import package, sys; print(package.NUMBER, package.number.__cached__)"
    words = ("-B", "-c", program)
    first = call(sys.executable, *words, cwd=merged / "python", PYTHONPATH=str(merged / "python"))
    assert first.startswith("42 ")
    call(sys.executable, "-m", "compileall", "-q", merged / "python")
    byte_code = Path(first.split()[1])
    assert byte_code.is_relative_to(merged) and byte_code.stat().st_size > 0
    # Valid by the source's time and size, which must not change: else Python would write it again.
    written = byte_code.stat().st_mtime_ns
    assert call(sys.executable, "-c", program, PYTHONPATH=str(merged / "python")) == first
    assert byte_code.stat().st_mtime_ns == written
    (merged / "python/package/number.py").write_text("NUMBER = 43\n")
    assert call(sys.executable, *words, PYTHONPATH=str(merged / "python")).startswith("43 ")


def test_gcc_compiles_links_and_the_result_runs(merged: Path) -> None:
    needs("gcc")
    source = merged / "c"
    call("gcc", "-O1", "-c", "main.c", "answer.c", cwd=source)
    call("gcc", "-shared", "-fPIC", "-o", "libanswer.so", "answer.c", cwd=source)
    call("gcc", "-o", "linked", "main.o", "-L.", "-lanswer", cwd=source)
    assert call(source / "linked", LD_LIBRARY_PATH=str(source)) == "42\n"
    call("gcc", "-o", "program", "main.o", "answer.o", cwd=source)
    assert call(source / "program") == "42\n"
    (source / "answer.c").write_text("int answer(void) { return 43; }\n")
    call("gcc", "-o", "program", "main.c", "answer.c", cwd=source)
    assert call(source / "program") == "43\n"


def dpkg_image(base: Path) -> bytes:
    """A tar with this machine's dpkg, what it is linked with, busybox, and a database with one package."""
    libraries: set[str] = set()
    for program in DPKG:
        for word in call("ldd", program).split():
            if word.startswith("/"):
                libraries.add(word)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, dereference=True) as archive:
        for path in (*DPKG, *sorted(libraries)):
            archive.add(path, arcname=path.lstrip("/"))
        archive.add(BUSYBOX, arcname="bin/busybox")
        archive.add(base / "hello.deb", arcname="hello.deb")
        for directory in ("tmp", "etc", "var/lib/dpkg/info", "var/lib/dpkg/updates", "usr/share"):
            member = tarfile.TarInfo(directory)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        old = "Package: old\nStatus: install ok installed\nMaintainer: me\nArchitecture: all\nVersion: 1\n"
        texts = {
            "var/lib/dpkg/status": f"{old}Description: a package that was there\n\n",
            "var/lib/dpkg/available": "",
            "var/lib/dpkg/info/old.list": "/.\n",
            "var/lib/dpkg/info/format": "1\n",
            "etc/passwd": "root:x:0:0::/:/bin/sh\n",
            "etc/group": "root:x:0:\n",
        }
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        for applet in ("sh", "rm", "cat", "true"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return packed.getvalue()


def test_a_package_managers_database_is_read_and_written_in_a_container(tmp_path: Path) -> None:
    needs("dpkg-deb", "ldd")
    if not BUSYBOX.exists() or not all(Path(program).exists() for program in DPKG):
        pytest.skip("needs dpkg and the package busybox-static")
    package = tmp_path / "hello"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "usr/share/hello").mkdir(parents=True)
    (package / "usr/share/hello/text").write_text("hello\n")
    (package / "DEBIAN/control").write_text(
        "Package: hello\nVersion: 2.0\nArchitecture: all\nMaintainer: nobody\nDescription: says hello\n"
    )
    call("dpkg-deb", "--root-owner-group", "--build", package, tmp_path / "hello.deb")
    config = {"Env": ["PATH=/usr/bin:/bin"]}
    write_layout(tmp_path / "plain", config, dpkg_image(tmp_path))
    output_of("convert", f"oci:{tmp_path}/plain:v1", f"oci:{tmp_path}/lazy:v1")
    # By its path: busybox's shell would take its own.
    dpkg = "/usr/bin/dpkg"
    script = (
        f"{dpkg} -l && {dpkg} --force-bad-path -i /hello.deb >/dev/null && {dpkg} -l && {dpkg} -L hello"
        f" && cat /usr/share/hello/text && {dpkg} --force-bad-path -r hello >/dev/null && {dpkg} -l"
    )
    said = output_of("run", "--root", tmp_path / "root", f"oci:{tmp_path}/lazy:v1", "sh", "-c", script)
    listed = [line.split()[:3] for line in said.splitlines() if line.startswith("ii ")]
    assert listed == [["ii", "old", "1"], ["ii", "hello", "2.0"], ["ii", "old", "1"], ["ii", "old", "1"]]
    assert "/usr/share/hello/text\nhello\n" in said
