"""System calls that Python has no names for: what ours make of the kernel's answers."""

from __future__ import annotations

import os
import threading

from erofs_fs.syscalls import is_thread_of


def test_a_thread_is_one_of_its_process_and_of_no_other() -> None:
    ending = threading.Event()
    thread = threading.Thread(target=ending.wait)
    thread.start()
    number = thread.native_id
    assert number is not None
    try:
        assert is_thread_of(os.getpid(), os.getpid())
        assert is_thread_of(os.getpid(), number)
        assert not is_thread_of(os.getppid(), number)
        assert not is_thread_of(number, os.getpid())
    finally:
        ending.set()
        thread.join()
