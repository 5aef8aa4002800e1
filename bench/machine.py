"""What a measurement ran on: processor, memory, kernel, versions. For the record only."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROGRAMS = {
    "containerd": ["containerd", "--version"],
    "runc": ["runc", "--version"],
    "crun": ["crun", "--version"],
    "docker-registry": ["docker-registry", "--version"],
}
NUMBER = re.compile(r"\d+(?:\.\d+)+\S*")


def describe_machine() -> dict[str, str]:
    """Return names and values a reader needs to judge a number."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "system": _field("/etc/os-release", "PRETTY_NAME") or platform.system(),
    }


def describe_versions() -> dict[str, str]:
    """Return the versions of what took part; a program that is not installed is left out."""
    found = {"python": platform.python_version()}
    try:
        found["nopull"] = version("nopull")
    except PackageNotFoundError:
        found["nopull"] = "from a checkout"
    for name, command in PROGRAMS.items():
        try:
            told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if match := NUMBER.search(told.stdout + told.stderr):
            found[name] = match[0]
    return found


def _field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, separator, value = line.partition(":") if ":" in line else line.partition("=")
        if separator and key.strip() == name:
            return value.strip().strip('"')
    return ""
