"""What is read without root is what the program needs, found inside the image and never outside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.read_start import demo_files, inside


def image_tree(root: Path) -> Path:
    """Make a small tree with an interpreter behind links, a library, a module and an absolute link."""
    for directory in ("usr/bin", "usr/lib/x86_64-linux-gnu", "usr/lib/python3.11/__pycache__", "etc"):
        (root / directory).mkdir(parents=True)
    (root / "usr/bin/python3.11").write_bytes(b"interpreter")
    (root / "usr/bin/python3").symlink_to("python3.11")
    (root / "bin").symlink_to("usr/bin")
    (root / "etc/absolute").symlink_to("/usr/bin/python3")
    (root / "etc/outside").symlink_to("../../../../../../etc/hostname")
    (root / "etc/loop").symlink_to("loop")
    (root / "usr/lib/x86_64-linux-gnu/libc.so.6").write_bytes(b"library")
    (root / "usr/lib/python3.11/__pycache__/ssl.cpython-311.pyc").write_bytes(b"module")
    (root / "usr/lib/python3.11/__pycache__/unrelated.cpython-311.pyc").write_bytes(b"module")
    return root


def test_links_are_followed_inside_the_image_only(tmp_path: Path) -> None:
    root = image_tree(tmp_path / "root")
    assert inside(root, "/bin/python3") == root / "usr/bin/python3.11"
    assert inside(root, "/etc/absolute") == root / "usr/bin/python3.11"
    assert inside(root, "/etc/outside") == root / "etc/hostname"
    assert inside(root, "/etc/loop").is_relative_to(root)


def test_demo_reads_interpreter_libraries_and_the_modules_it_imports(tmp_path: Path) -> None:
    root = image_tree(tmp_path / "root")
    assert {file.name for file in demo_files(root)} == {"python3.11", "libc.so.6", "ssl.cpython-311.pyc"}


def test_reader_says_ready_when_all_was_read_and_ends_with_its_input(tmp_path: Path) -> None:
    root = image_tree(tmp_path / "root")
    command = [sys.executable, "-P", "-m", "bench.read_start", str(root), "/bin/python3"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert done.stdout == "READY 1 files, 11 bytes\n"
