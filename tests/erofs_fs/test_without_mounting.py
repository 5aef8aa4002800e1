"""What can be proved of the kernel mount without root: the probe's image, and refusals in words."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from erofs_fs import syscalls
from erofs_fs.errors import ErofsError, ErofsForbidden, ErofsMissing, MountFailed
from erofs_fs.mount import mount
from erofs_fs.probe import probe_image
from rafs.localised import read_devices
from tests.support.erofs_reader import ErofsImage


def test_the_image_of_the_probe_has_one_file_that_is_its_one_window() -> None:
    raw = probe_image()
    image = ErofsImage(raw)
    found = dict(image.walk())
    assert sorted(found) == [b"/", b"/f"]
    assert list(image.pages(found[b"/f"])) == [(1, 0)]
    assert found[b"/f"].size == 4096
    assert [device.length for device in read_devices(raw)] == [4096]


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.EPERM, ErofsForbidden, "need root"),
        (errno.EACCES, ErofsForbidden, "need root"),
        (errno.ENODEV, ErofsMissing, "no EROFS"),
        (errno.ENOSYS, ErofsMissing, "not implemented"),
        (errno.ENOTBLK, ErofsMissing, "choose another place with --root"),
        (errno.EUCLEAN, MountFailed, "the image is damaged"),
        (errno.EINVAL, MountFailed, "dmesg says why"),
        (errno.ENOMEM, MountFailed, "Cannot allocate memory"),
    ],
)
def test_a_refusal_of_the_kernel_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[ErofsError], words: str
) -> None:
    def refuse(_: str) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(syscalls, "fsopen", refuse)
    with pytest.raises(kind, match=words) as refusal:
        mount(tmp_path / "image", tmp_path, ["0" * 64], tmp_path / "hold", tmp_path)
    assert isinstance(refusal.value.__cause__, OSError)
    assert str(tmp_path / "image") in str(refusal.value)
