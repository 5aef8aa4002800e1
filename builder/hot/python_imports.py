"""Which files a Python program reads until it is up: byte code and extensions, in the order of import.

The static closure of the import statements, found in the image's own tree by the rules of the interpreter's
path finder. Nothing is run. Over-complete where an import is conditional, incomplete where it is computed: it
is advice for the hot list, and the rest is fetched on demand as ever. Python is worth a reader of its own
because its start is one long chain of small reads, each of which waits for the one before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from builder.hot.python_source import imported_names
from builder.layers.tree_paths import file_at, folder_at
from rafs.tree import Node

Imports = Callable[[Node, str, bool], list[str]]  # (source, its package, is it the program) -> names
Located = tuple[bytes, Node]  # the path and the regular file there

_INTERPRETER: Final = re.compile(rb"python(3)(?:\.(\d+))?$")
_LIBRARY: Final = re.compile(rb"python3\.(\d+)$")
_MODULES_LIMIT: Final = 4096
# What an interpreter imports by itself before the program.
_STARTUP: Final = (
    "encodings",
    "encodings.aliases",
    "encodings.utf_8",
    "site",
    "os",
    "sitecustomize",
    "usercustomize",
)
_OPTIONS_WITH_VALUE: Final = (b"-W", b"-X", b"--check-hash-based-pycs")


@dataclass(frozen=True, slots=True)
class _Module:
    read: Located  # what the interpreter reads: byte code, else source, else the extension
    source: Node | None
    folder: bytes | None  # where its submodules lie, if it is a package


def is_python(path: bytes) -> bool:
    """Whether the program at *path* is a Python interpreter, by its name."""
    return _INTERPRETER.search(path.rpartition(b"/")[2]) is not None


class PythonProgram:
    """The imports of one program.

    Parameters:
        interpreter: the path it was started by and the one it lies at; they differ in a virtual environment.
        arguments: what follows the interpreter in the command.
        folder: the working directory, absolute.
        python_path: the directories of `$PYTHONPATH`.
    """

    def __init__(
        self,
        root: Node,
        interpreter: tuple[bytes, bytes],
        arguments: Sequence[bytes],
        *,
        folder: bytes,
        python_path: Sequence[bytes],
        imports: Imports,
    ) -> None:
        self._root = root
        self._arguments = arguments
        self._folder = folder
        self._python_path = python_path
        self._imports = imports
        folders = (path.rpartition(b"/")[0] for path in interpreter)
        self._prefixes = list(dict.fromkeys(path.rpartition(b"/")[0] for path in folders))
        self._minor = self._find_minor(interpreter[1])
        self._seen: dict[str, _Module | None] = {}
        self._suffixes: dict[bytes, tuple[bytes, ...]] = {}  # by folder

    def files(self) -> Iterator[Located]:
        """Yield what is read, in the order of import; nothing without the interpreter's library."""
        if self._minor is None:
            return
        main, script = self._main()
        first = [script.rpartition(b"/")[0]] if script is not None else [self._folder]
        site = list(self._site_folders())
        self._path = [*first, *self._python_path, *self._library_folders(), *site]
        yield from self._site_files(site)
        yield from self._closure(_STARTUP)
        if script is not None:
            located = file_at(self._root, script)
            if located is not None:
                yield located
                main = self._imports(located[1], "", True)
        yield from self._closure(main)

    def _find_minor(self, path: bytes) -> int | None:
        named = _INTERPRETER.search(path.rpartition(b"/")[2])
        if named is not None and named[2]:
            return int(named[2])
        for prefix in self._prefixes:
            library = folder_at(self._root, prefix + b"/lib")
            versions = [_LIBRARY.match(name) for name in library.children] if library is not None else []
            found = [int(version[1]) for version in versions if version is not None]
            if found:
                return max(found)
        return None

    def _main(self) -> tuple[list[str], bytes | None]:
        """What the command runs: names to import, or a script's path."""
        words = iter(self._arguments)
        for word in words:
            if word == b"-m":
                module = next(words, b"").decode("utf-8", "replace")
                return ["runpy", module, f"{module}.__main__"], None
            if word == b"-c":
                return imported_names(next(words, b""), "", is_main=True), None
            if word in _OPTIONS_WITH_VALUE:
                next(words, None)
            elif not word.startswith(b"-"):
                path = word if word.startswith(b"/") else self._folder + b"/" + word
                if folder_at(self._root, path) is not None:
                    path += b"/__main__.py"
                return [], path
        return [], None

    def _library_folders(self) -> Iterator[bytes]:
        for prefix in self._prefixes:
            library = prefix + b"/lib/python3.%d" % self._version
            yield from (library, library + b"/lib-dynload")

    def _site_folders(self) -> Iterator[bytes]:
        for prefix in self._prefixes:
            yield prefix + b"/lib/python3.%d/site-packages" % self._version
        # Debian's: what pip installs, what packages install.
        yield b"/usr/local/lib/python3.%d/dist-packages" % self._version
        yield b"/usr/lib/python3/dist-packages"

    @property
    def _version(self) -> int:
        assert self._minor is not None
        return self._minor

    def _site_files(self, folders: Sequence[bytes]) -> Iterator[Located]:
        """What the module `site` reads: the environment's description, and the path files of its folders."""
        paths = [prefix + b"/pyvenv.cfg" for prefix in self._prefixes]
        for folder in folders:
            node = folder_at(self._root, folder)
            if node is not None:
                paths += [folder + b"/" + name for name in sorted(node.children) if name.endswith(b".pth")]
        found = (file_at(self._root, path) for path in paths)
        yield from (located for located in found if located is not None)

    def _closure(self, names: Sequence[str]) -> Iterator[Located]:
        """Modules in the order in which an interpreter reads them: a module before what it imports."""
        pending = [iter(names)]
        while pending and len(self._seen) < _MODULES_LIMIT:
            name = next(pending[-1], None)
            if name is None:
                pending.pop()
                continue
            if name in self._seen or not name:
                continue
            parent = name.rpartition(".")[0]
            if parent and parent not in self._seen:
                pending.append(iter((parent, name)))
                continue
            module = self._seen[name] = self._locate(name)
            if module is None:
                continue
            yield module.read
            if module.source is not None:
                package = name if module.folder is not None else parent
                pending.append(iter(self._imports(module.source, package, False)))

    def _locate(self, name: str) -> _Module | None:
        parent, _, last = name.rpartition(".")
        base = last.encode("utf-8", "surrogatepass")
        if not parent:
            folders = self._path
        else:
            above = self._seen[parent]
            folders = [above.folder] if above is not None and above.folder is not None else []
        for folder in folders:
            node = folder_at(self._root, folder)
            if node is None:
                continue
            inside = folder + b"/" + base
            package = folder_at(self._root, inside)
            module = self._in_folder(package, inside, b"__init__") if package is not None else None
            if module is not None:
                return replace(module, folder=inside)
            module = self._in_folder(node, folder, base)
            if module is not None:
                return module
        return None

    def _in_folder(self, node: Node, folder: bytes, base: bytes) -> _Module | None:
        """The module *base* of a folder, as far as files of that folder make one."""
        suffixes = self._suffixes.get(folder)
        if suffixes is None:
            suffixes = self._suffixes[folder] = self._extension_suffixes(node)
        for suffix in suffixes:
            located = file_at(self._root, folder + b"/" + base + suffix)
            if located is not None:
                return _Module(located, None, None)
        source = file_at(self._root, folder + b"/" + base + b".py")
        # Byte code without a source counts only beside where the source would be.
        where = b"/__pycache__/%b.cpython-3%d.pyc" % (base, self._version) if source else b"/%b.pyc" % base
        compiled = file_at(self._root, folder + where)
        read = compiled or source
        return _Module(read, source[1] if source else None, None) if read is not None else None

    def _extension_suffixes(self, node: Node) -> tuple[bytes, ...]:
        """Suffixes of the extension modules of a folder; told from its names: they carry the architecture."""
        tag = b".cpython-3%d" % self._version
        found: dict[bytes, None] = {}
        for name in node.children:
            if name.endswith(b".so"):
                suffix = b"." + name.partition(b".")[2]
                if suffix in (b".so", b".abi3.so") or suffix.startswith(tag):
                    found[suffix] = None
        return tuple(found)
