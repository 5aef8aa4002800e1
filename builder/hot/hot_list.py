"""What an image's command needs first: program, interpreter, shared libraries, a Python program's modules.

In the order of loading, computed from the image's config and the merged tree without running anything: PATH
and symlinks are followed as the kernel would, `#!` lines too, and libraries are searched where the dynamic
loader looks when it has no cache. It is advice only. Whatever cannot be found is left out, nothing here fails
a conversion, and all of it is bounded.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from builder.hot.file_looks import FileLooks
from builder.hot.python_imports import PythonProgram, is_python
from builder.image_documents import DEFAULT_PATH
from builder.layers.tree_paths import file_at, folder_at
from rafs.tree import Node

_FILES_LIMIT: Final = 4096
_SCRIPTS_LIMIT: Final = 4  # the kernel follows as many #! lines
_ARGUMENTS_LIMIT: Final = 16
_LOADER_FOLDERS: Final = (b"/lib64", b"/usr/lib64", b"/lib", b"/usr/lib", b"/usr/local/lib")
_ENV_NAMES: Final = (b"/usr/bin/env", b"/bin/env")
_SHELLS: Final = (b"sh", b"bash", b"dash", b"ash")
_COMMANDS_LIMIT: Final = 4  # a command that starts a command that starts …
# What a container runtime and the dynamic loader read before the program's own files.
_FIRST_FILES: Final = (b"/etc/passwd", b"/etc/group", b"/etc/ld.so.cache")


def find_hot_files(root: Node, config: Mapping[str, Any], looks: FileLooks) -> list[Node]:
    """Regular files of the tree below *root* that the command in an image's *config* opens first.

    *config* is the whole config document; *looks* reads files of the tree. Never raises for what config,
    tree or files say.
    """
    settings = config.get("config")
    if not isinstance(settings, dict):
        return []
    command = [*_strings(settings.get("Entrypoint")), *_strings(settings.get("Cmd"))]
    if not command:
        return []
    search = _Search(root, settings, looks)
    search.first_files()
    search.command([_raw(word) for word in command])
    return list(search.found)


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _raw(text: str) -> bytes:
    # JSON can hold lone surrogates, which no other error handler takes.
    return text.encode("utf-8", "surrogatepass")


class _Search:
    """Collects files once each, in the order of loading."""

    def __init__(self, root: Node, settings: Mapping[str, Any], looks: FileLooks) -> None:
        self._root = root
        self._looks = looks
        environment = dict(item.partition("=")[::2] for item in _strings(settings.get("Env")))
        self._path = _raw(environment.get("PATH") or DEFAULT_PATH).split(b":")
        folder = settings.get("WorkingDir")
        self._folder = _raw(folder) if isinstance(folder, str) and folder else b"/"
        self._libraries = [part for part in _raw(environment.get("LD_LIBRARY_PATH", "")).split(b":") if part]
        self._python_path = [
            part for part in _raw(environment.get("PYTHONPATH", "")).split(b":") if part.startswith(b"/")
        ]
        self._standard: list[bytes] | None = None
        self.found: dict[Node, None] = {}

    def first_files(self) -> None:
        """Add what is read before any program runs."""
        for path in _FIRST_FILES:
            if (located := file_at(self._root, path)) is not None:
                self._add(located[1])

    def command(self, words: Sequence[bytes], depth: int = 0) -> None:
        """Add what the command *words* loads, and what its arguments name: files, or another command."""
        self.program(words[0], words[1:])
        shell = words[0].rpartition(b"/")[2] in _SHELLS
        for place, word in enumerate(words[1 : 1 + _ARGUMENTS_LIMIT], 1):
            if shell and words[place - 1] == b"-c":
                self._shell_line(word, depth)
            # As `entrypoint.sh command` and `tini -- command` do.
            elif b"/" not in word and depth < _COMMANDS_LIMIT and self._locate(word) is not None:
                self.command(words[place:], depth + 1)
                return
            else:
                self.argument(word)

    def _shell_line(self, line: bytes, depth: int) -> None:
        """Add what a shell's `-c` line runs first, as far as it is a plain command."""
        try:
            words = shlex.split(line.decode("utf-8", "surrogateescape"))
        except ValueError:
            return
        while words and (words[0] == "exec" or "=" in words[0]):
            del words[0]
        if words and depth < _COMMANDS_LIMIT:
            self.command([word.encode("utf-8", "surrogateescape") for word in words], depth + 1)

    def program(self, name: bytes, arguments: Sequence[bytes] = ()) -> None:
        """Add the program *name*, the scripts and interpreters on the way, and what they load."""
        for _ in range(_SCRIPTS_LIMIT):
            located = self._locate(name)
            if located is None or not self._add(located[1]):
                return
            path, node = located
            line = self._looks.script_line(node)
            if not line:
                self._closure(path, node)
                if is_python(path):
                    self._python(name, path, arguments)
                return
            arguments = [path, *arguments]
            words = line[2:].split(b"\n")[0].split()
            if not words:
                return
            if words[0] in _ENV_NAMES:
                self.program(words[0])
                words = [word for word in words[1:] if not word.startswith(b"-") and b"=" not in word]
            if not words:
                return
            name = words[0]

    def argument(self, text: bytes) -> None:
        """Add the file that an argument of the command names, if it names one."""
        if text and not text.startswith(b"-"):
            located = file_at(self._root, self._absolute(text))
            if located is not None:
                self._add(located[1])

    def _python(self, name: bytes, path: bytes, arguments: Sequence[bytes]) -> None:
        started_as = self._absolute(name) if b"/" in name else path
        program = PythonProgram(
            self._root,
            (started_as, path),
            arguments,
            folder=self._folder,
            python_path=self._python_path,
            imports=self._looks.imports,
        )
        for where, node in program.files():
            if self._add(node) and where.endswith(b".so"):
                self._closure(where, node)

    def _locate(self, name: bytes) -> tuple[bytes, Node] | None:
        if b"/" in name:
            return file_at(self._root, self._absolute(name))
        candidates = (file_at(self._root, self._absolute(folder + b"/" + name)) for folder in self._path)
        return next((one for one in candidates if one is not None and one[1].mode & 0o111), None)

    def _absolute(self, path: bytes) -> bytes:
        return path if path.startswith(b"/") else self._folder + b"/" + path

    def _add(self, node: Node) -> bool:
        """Whether *node* was new and there was room."""
        if node in self.found or len(self.found) >= _FILES_LIMIT:
            return False
        self.found[node] = None
        return True

    def _closure(self, path: bytes, program: Node) -> None:
        """The loader and the libraries of *program*, breadth first as the loader opens them."""
        pending = [(path, program)]
        for where, node in pending:
            needs = self._looks.needs(node)
            if needs is None:
                continue
            origin = where.rpartition(b"/")[0] or b"/"
            wanted = [file_at(self._root, needs.interpreter)] if needs.interpreter.startswith(b"/") else []
            own = (part.replace(b"${ORIGIN}", origin).replace(b"$ORIGIN", origin) for part in needs.search)
            folders = [folder for folder in own if folder.startswith(b"/")]
            wanted += [self._library(name, folders) for name in needs.libraries]
            pending += [located for located in wanted if located is not None and self._add(located[1])]

    def _library(self, name: bytes, folders: list[bytes]) -> tuple[bytes, Node] | None:
        if b"/" in name:
            return file_at(self._root, self._absolute(name))
        if self._standard is None:
            self._standard = [*self._libraries, *self._configured(), *self._multiarch(), *_LOADER_FOLDERS]
        for folder in [*folders, *self._standard]:
            if (located := file_at(self._root, folder + b"/" + name)) is not None:
                return located
        return None

    def _configured(self) -> Iterator[bytes]:
        """Folders that /etc/ld.so.conf and /etc/ld.so.conf.d name, in the order of the files' names."""
        files = [b"/etc/ld.so.conf"]
        folder = folder_at(self._root, b"/etc/ld.so.conf.d")
        if folder is not None:
            names = sorted(folder.children)
            files += [b"/etc/ld.so.conf.d/" + name for name in names if name.endswith(b".conf")]
        for path in files[:_FILES_LIMIT]:
            located = file_at(self._root, path)
            if located is not None:
                lines = self._looks.text(located[1]).splitlines()
                yield from (line.strip() for line in lines if line.strip().startswith(b"/"))

    def _multiarch(self) -> Iterator[bytes]:
        """Debian's /lib/x86_64-linux-gnu and the like."""
        for base in (b"/lib", b"/usr/lib"):
            folder = folder_at(self._root, base)
            if folder is not None:
                yield from (base + b"/" + name for name in sorted(folder.children) if b"-linux-" in name)
