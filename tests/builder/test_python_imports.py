"""The hot list of a Python program is its import closure, found as the interpreter would find it."""

from __future__ import annotations

import pytest

from tests.builder.test_hot_list import elf, hot, program
from tests.support.trees import Entry, directory, file, symlink, tree

PYTHON = b"/usr/bin/python3.11"
LIBRARY = b"/usr/lib/python3.11"


def image(*app: Entry, site: tuple[Entry, ...] = ()) -> Entry:
    """A system with an interpreter, a small standard library, and *app* in /opt/app."""
    cached = [b"os", b"json", b"codec", b"late"]
    return tree(
        directory(
            b"usr",
            directory(b"bin", program(b"python3.11", elf(b"libc.so")), symlink(b"python3", b"python3.11")),
            directory(
                b"lib",
                file(b"libc.so", elf()),
                file(b"libssl.so", elf()),
                directory(
                    b"python3.11",
                    directory(b"__pycache__", *(file(name + b".cpython-311.pyc", b"\0") for name in cached)),
                    file(b"os.py", b"import codec\n"),
                    file(b"codec.py", b""),
                    file(b"late.py", b""),
                    file(b"json.py", b"import _ssl\ndef f():\n    import late\n"),
                    directory(
                        b"encodings", file(b"__init__.py", b"from . import aliases"), file(b"aliases.py", b"")
                    ),
                    directory(
                        b"lib-dynload", file(b"_ssl.cpython-311-x86_64-linux-gnu.so", elf(b"libssl.so"))
                    ),
                ),
                directory(b"python3", directory(b"dist-packages", *site)),
            ),
        ),
        directory(b"opt", directory(b"app", *app)),
    )


STARTUP = [
    PYTHON,
    b"/usr/lib/libc.so",
    LIBRARY + b"/encodings/__init__.py",
    LIBRARY + b"/encodings/aliases.py",
    LIBRARY + b"/__pycache__/os.cpython-311.pyc",
    LIBRARY + b"/__pycache__/codec.cpython-311.pyc",
]
JSON = [
    LIBRARY + b"/__pycache__/json.cpython-311.pyc",
    LIBRARY + b"/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so",
    b"/usr/lib/libssl.so",
]


def test_a_script_brings_its_modules_their_extensions_and_their_libraries_in_order() -> None:
    root = image(file(b"main.py", b"import json\n"))
    found = hot(root, {"Cmd": ["python3", "/opt/app/main.py"]})
    assert found == [*STARTUP, b"/opt/app/main.py", *JSON]


@pytest.mark.parametrize(
    "config",
    [
        {"Cmd": ["python3", "-u", "-W", "error", "main.py"], "WorkingDir": "/opt/app"},
        {"Entrypoint": ["/bin/sh", "-c", "exec python3 /opt/app/main.py --serve"]},
        {"Entrypoint": ["/opt/app/entry.sh"], "Cmd": ["python3", "/opt/app/main.py"]},
        {"Cmd": ["/opt/app"], "Entrypoint": ["python3"]},
        {"Cmd": ["/opt/app/main.py"]},
    ],
)
def test_every_usual_way_to_start_it_is_understood(config: dict[str, object]) -> None:
    main = b"#!/usr/bin/env python3\nimport json\n"
    entry = program(b"entry.sh", b"#!/bin/sh\n")
    root = image(program(b"main.py", main), entry, file(b"__main__.py", b"import json\n"))
    found = hot(root, config)
    assert [path for path in found if path in JSON] == JSON


def test_a_module_is_started_by_name_and_found_beside_the_working_directory() -> None:
    core = file(b"core.py", b"import json")
    package = directory(b"web", file(b"__init__.py", b"from .core import run"), core)
    found = hot(image(package), {"Cmd": ["python3", "-m", "web"], "WorkingDir": "/opt/app"})
    assert found[-5:] == [b"/opt/app/web/__init__.py", b"/opt/app/web/core.py", *JSON]


def test_installed_packages_and_path_files_are_found() -> None:
    site = (file(b"extra.pth", b""), file(b"six.py", b""))
    found = hot(image(site=site), {"Cmd": ["python3", "-c", "import six"]})
    assert b"/usr/lib/python3/dist-packages/extra.pth" in found
    assert found[-1] == b"/usr/lib/python3/dist-packages/six.py"


def test_a_virtual_environment_finds_its_own_packages() -> None:
    environment = directory(
        b"venv",
        file(b"pyvenv.cfg", b"home = /usr/bin\n"),
        directory(b"bin", symlink(b"python", PYTHON)),
        directory(
            b"lib", directory(b"python3.11", directory(b"site-packages", file(b"flask.py", b"import json")))
        ),
    )
    found = hot(image(environment), {"Cmd": ["/opt/app/venv/bin/python", "-c", "import flask"]})
    assert b"/opt/app/venv/pyvenv.cfg" in found
    assert found[-4:] == [b"/opt/app/venv/lib/python3.11/site-packages/flask.py", *JSON]


def test_modules_in_a_circle_are_followed_once() -> None:
    root = image(file(b"a.py", b"import b"), file(b"b.py", b"import a"), file(b"main.py", b"import a"))
    found = hot(root, {"Cmd": ["python3", "/opt/app/main.py"]})
    assert found[-3:] == [b"/opt/app/main.py", b"/opt/app/a.py", b"/opt/app/b.py"]


def test_an_interpreter_without_its_library_brings_itself_only() -> None:
    root = tree(directory(b"bin", program(b"python3", elf())), file(b"main.py", b"import json"))
    assert hot(root, {"Cmd": ["/bin/python3", "/main.py"]}) == [b"/bin/python3", b"/main.py"]


def test_what_a_runtime_reads_first_comes_first() -> None:
    root = tree(directory(b"etc", file(b"passwd", b"x"), file(b"group", b"x")), program(b"app", elf()))
    assert hot(root, {"Cmd": ["/app"]}) == [b"/etc/passwd", b"/etc/group", b"/app"]
