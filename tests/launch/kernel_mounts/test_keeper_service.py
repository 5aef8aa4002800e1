"""What `nopull keeper run` refuses before it touches anything, and the unit that runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from command import exit_codes
from launch.kernel_mounts.keeper_service import unit_text

# A process of its own: what is not refused becomes a keeper.
AS_ANYBODY = "import os, sys; os.geteuid = lambda: 1000; import nopull; sys.exit(nopull.main(sys.argv[1:]))"


def test_without_root_it_says_so_and_makes_nothing(tmp_path: Path) -> None:
    words = ["keeper", "run", "--root", str(tmp_path / "root")]
    done = subprocess.run(
        [sys.executable, "-c", AS_ANYBODY, *words], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == exit_codes.NO_PERMISSION
    assert done.stderr == "nopull: a keeper needs root: it watches files and mounts; run it as root\n"
    assert not (tmp_path / "root").exists()


def test_the_units_words_stay_what_they_are() -> None:
    assert "keeper run --root /var/lib/nopull\n" in unit_text(Path("/var/lib/nopull"))
    assert 'keeper run --root "/a b/%%n/$$x/\\"\\\\"\n' in unit_text(Path('/a b/%n/$x/"\\'))
