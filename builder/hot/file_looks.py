"""What the hot list wants to know of single files, remembered so that nobody has to look twice.

The next image over the same layers asks the same of the same files; with the answers in the record of the
layers (`layer_record`), it needs no byte of a blob that is in the registry already. An answer belongs to the
chunks of a file, not to its name, and so holds only where the same blobs have the same keys.
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Callable, Mapping
from typing import Any, Final

from blake3 import blake3

from builder.errors import BuildError
from builder.hot.elf import Needs, read_needs
from builder.hot.python_source import imported_names
from rafs.tree import Node, split_ref

FileReader = Callable[[Node, int, int], bytes]  # (file, offset, size) -> bytes, fewer at the end

_LINE_LIMIT: Final = 256  # bytes of a #! line the kernel looks at
_CONF_LIMIT: Final = 16 << 10  # bytes
_SOURCE_LIMIT: Final = 1 << 20  # bytes; the longest module of Python's standard library has 400 KB
_KEY_BYTES: Final = 8


class FileLooks:
    """Answers about files of one tree; not thread-safe."""

    def __init__(
        self, read: FileReader, remembered: Mapping[str, Any] | None = None, adopted: int = 0
    ) -> None:
        """*read* gives bytes of files; *remembered* is what an earlier run had in `answers`, good for files
        whose chunks all lie in the first *adopted* blobs: the others are not those of that run.
        """
        self._read = read
        self._remembered = remembered or {}
        self._adopted = adopted
        self.answers: dict[str, Any] = {}  # those asked for in this run, for JSON

    def script_line(self, node: Node) -> bytes:
        """The start of a script, if it begins with `#!`, else empty."""
        return self._text(node, "line", lambda: _script_line(self._bytes(node, 0, _LINE_LIMIT)))

    def text(self, node: Node) -> bytes:
        """The first 16 KiB."""
        return self._text(node, "text", lambda: self._bytes(node, 0, _CONF_LIMIT))

    def imports(self, node: Node, package: str, is_main: bool) -> list[str]:
        """The modules that the Python source *node* of *package* imports; see `python_source`."""
        kind = f"imports {package}{' main' if is_main else ''}"
        known = self._known(node, kind)
        if isinstance(known, list) and all(isinstance(name, str) for name in known):
            names: list[str] = known
        else:
            names = imported_names(self._bytes(node, 0, _SOURCE_LIMIT), package, is_main=is_main)
        self._keep(node, kind, names)
        return names

    def needs(self, node: Node) -> Needs | None:
        """What it is linked to; None if it is no ELF file."""
        known = self._known(node, "needs")
        try:
            if known is not None:
                found = _read_answer(known[0])
                self._keep(node, "needs", known)
                return found
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            pass  # looking is always possible
        found = read_needs(lambda offset, size: self._bytes(node, offset, size))
        answer = None
        if found is not None:
            answer = [_packed(words) for words in ((found.interpreter,), found.libraries, found.search)]
        self._keep(node, "needs", [answer])
        return found

    def _text(self, node: Node, kind: str, look: Callable[[], bytes]) -> bytes:
        known = self._known(node, kind)
        try:
            found = look() if known is None else base64.b64decode(known, validate=True)
        except (TypeError, ValueError):
            found = look()
        self._keep(node, kind, base64.b64encode(found).decode())
        return found

    def _known(self, node: Node, kind: str) -> Any:
        if split_ref(max(node.chunks, default=0))[0] >= self._adopted:
            return None
        answers = self._remembered.get(_key(node))
        return answers.get(kind) if isinstance(answers, dict) else None

    def _keep(self, node: Node, kind: str, answer: Any) -> None:
        self.answers.setdefault(_key(node), {})[kind] = answer

    def _bytes(self, node: Node, offset: int, size: int) -> bytes:
        try:
            return self._read(node, offset, min(size, max(0, node.size - offset)))
        except BuildError:
            return b""


def _key(node: Node) -> str:
    return blake3(array("Q", [node.size, *node.chunks]).tobytes()).hexdigest(_KEY_BYTES)


def _script_line(head: bytes) -> bytes:
    return head if head.startswith(b"#!") else b""


def _packed(words: tuple[bytes, ...]) -> list[str]:
    return [base64.b64encode(word).decode() for word in words]


def _read_answer(answer: Any) -> Needs | None:
    if answer is None:
        return None
    interpreter, libraries, search = (
        tuple(base64.b64decode(word, validate=True) for word in words) for words in answer
    )
    return Needs(interpreter[0], libraries, search)
