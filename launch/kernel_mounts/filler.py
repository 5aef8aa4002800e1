"""The filler of a store: fetches what readers of kernel mounts wait for, as the keeper tells it.

Has no mount of its own. It may be killed at any line: windows are right prefixes, and what was waited for is
said again to the next filler. Here mounts are made, taken on and let go of; what readers wait for is `needs`.
The process around it is in `filler_life`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from chunk_store import ChunkStore
from chunk_store.seldom import Seldom
from erofs_fs.filler_link import FillerLink
from erofs_fs.holds import forget_hold
from erofs_fs.keeper_words import NEED, Word
from launch.driver_choice import require_events
from launch.errors import FillerEnds, ImageInvalid
from launch.images.image_request import ImageRequest, from_json
from launch.images.lazy_image import LazyImage, open_request
from launch.images.localised_image import find_kept, make_kept
from launch.kernel_mounts.fillings import Filling, Fillings
from launch.kernel_mounts.mount_asking import MountAsking
from launch.kernel_mounts.needs import Needs
from launch.kernel_mounts.room import require_room
from launch.kernel_mounts.shown_mounts import ShownMounts, image_name
from launch.kernel_mounts.window_reads import WindowReads, forget_reads, keep_reads
from launch.later import Later
from registry_client.reference import Reference

log = logging.getLogger("nopull.filler")

_MOST_LINES = 20  # of a kind in a minute: the keeper may have one for each access it has to refuse
_LOOK_SECONDS = 30.0  # so often it is looked at what other processes have completed
_WHOLE = (1 << 63) - 1  # bytes: more than any window has
_LINGER_SECONDS = 1.0  # with nothing to fill, the next mount is waited for


@dataclass(frozen=True, slots=True)
class Made:
    """A mount that waits at the keeper for whoever asked for it, and the image it shows."""

    mount_id: str
    reference: str  # as people write it, without digest
    digest: str
    config: Path | None
    image: Path | None  # directory of its documents
    warnings: tuple[str, ...]


class Filler:
    """Fills *store*; documents of images are kept in the state root *root*. `serve` belongs to one thread,
    the rest may be called by any other, also before it.
    """

    def __init__(self, store: ChunkStore, root: Path) -> None:
        self._store = store
        self._root = root
        self._link: FillerLink | None = None  # while it serves
        self._mounts = ShownMounts()
        self._fillings = Fillings(store, self._have, self._opened)
        self._needs = Needs(self._fillings, self._mounts, root, self._open, self._have, self._lost)
        self._asking = MountAsking(store.root, self._say)
        self._lines = Seldom(_MOST_LINES)
        # Protects everything below. Only leaves are taken under it; no file, no remote, no message.
        self._changed = threading.Condition(threading.Lock())
        self._making = 0
        self._news = True  # `_tidy` has something to look at: there may be nothing to do from the beginning
        self._leaving = False
        self._quitting = False

    def serve(self, link: FillerLink) -> None:
        """Do what the keeper at the other end of *link* says, until it says to end or nothing is missing any
        more. The link stays the caller's.

        Raises:
            KeeperFailed, PostTaken: the keeper is gone and does not come back.
        """
        with self._changed:
            self._link = link
            self._changed.notify_all()
        threading.Thread(target=self._tidy, name="tidy", daemon=True).start()
        while not self._quitting:
            said = link.hear()
            if self._quitting:
                return
            if said is None:
                log.warning("the keeper is gone; having another one started")
                with self._changed:
                    self._leaving = False
                    self._changed.notify_all()
                requests = self._mounts.requests().items()
                link.restore({mount_id: one.to_json(secrets=True) for mount_id, one in requests})
                self._asking.ask_again()
            elif isinstance(said, Word):
                if said.kind == NEED:
                    self._needs.need(said)
            elif said.get("end") or said.get("left"):
                return
            else:
                self._heed(said)

    def quit(self) -> None:
        """Have `serve` return; somebody else may be the filler then."""
        with self._changed:
            self._quitting = True
            self._changed.notify_all()
        if self._link is not None:
            self._link.interrupt()

    def make_mount(
        self,
        request: ImageRequest,
        mount_id: str,
        open_it: Callable[[], LazyImage] | None = None,
        prove: Callable[[], object] | None = None,
    ) -> Made:
        """Have the keeper make a mount of what *request* says; it waits there to be taken.

        *open_it* returns the image, which is ours then; default: it is opened here. *prove* is called before
        the mount is asked for; default: `require_events`.

        Raises:
            FillerEnds: this filler is about to; another one can be asked.
            MountImpossible: the keeper did not answer.
            ErofsError, ImageInvalid, RafsError, StoreError, and what `open_image` raises.
        """
        with self._changed:
            if self._leaving or self._quitting:
                raise FillerEnds("the filler was about to end; try again")
            self._making += 1
        try:
            image = open_it() if open_it is not None else open_request(request, self._root)
            prove = prove or (lambda: require_events(self._store.root))
            return self._make(replace(request, reference=image.pinned), mount_id, image, prove)
        finally:
            with self._changed:
                self._making -= 1
            self._wake()

    def facts(self, mount_id: str) -> dict[str, Any] | None:
        """What filling that mount has cost so far, by the names of `chunk_store.Progress`; None: unknown."""
        filling = self._filling_of(mount_id)
        return self._mounts.facts(mount_id) if filling is None else asdict(filling.attachment.progress())

    def reads(self, mount_id: str) -> WindowReads | None:
        """What was read of that mount first, as long as something of it is missing."""
        filling = self._filling_of(mount_id)
        return None if filling is None else filling.reads

    def _filling_of(self, mount_id: str) -> Filling | None:
        name = self._mounts.image_of(mount_id)
        return None if name is None else self._fillings.of(name)

    def close(self) -> None:
        """Fill nothing any more."""
        self._fillings.close()

    def _make(
        self, request: ImageRequest, mount_id: str, image: LazyImage, prove: Callable[[], object]
    ) -> Made:
        self._store.bound(request.cache_size)
        try:
            require_room(image, self._store.directory, request.cache_size)
        except BaseException:
            image.close()
            raise
        kept = find_kept(image, self._root, self._store.directory)
        if kept is not None:
            # The image's tables are read behind the mount.
            try:
                prove()
                self._ask_for(mount_id, kept[0], request)
            except BaseException:
                image.close()
                raise
            self._fill(image, request)
        else:
            # What is missing travels while the form is made.
            filled = self._fill(image, request)
            path, _ = make_kept(image, self._root, self._store.directory)
            filled.result()
            prove()
            self._ask_for(mount_id, path, request)
        return Made(
            mount_id=mount_id,
            reference=image.reference.familiar().partition("@")[0],
            digest=image.digest,
            config=image.config_path,
            image=image.directory,
            warnings=image.warnings,
        )

    def _fill(self, image: LazyImage, request: ImageRequest) -> Later[None]:
        """Begin to fill *image*, unless that was done before. It is not ours any more; the result says when
        something can be read.
        """
        name = image_name(request)
        begun = self._fillings.begin(name, lambda: image, background=request.background, at_hand=True)

        def settle() -> None:
            source = None
            try:
                source = begun.result().source
            except Exception as error:
                self._cannot_fill(image.reference, error)
                raise
            finally:
                if source is not image.source:
                    image.close()

        return Later(settle)

    def _ask_for(self, mount_id: str, path: Path, request: ImageRequest) -> None:
        """Have the keeper mount the localised image in the file *path*."""
        with self._changed:
            self._changed.wait_for(lambda: self._link is not None or self._quitting)
            self._mounts.add(mount_id, request)
        try:
            self._asking.ask(mount_id, path, request)
        except BaseException:
            self._let_go(mount_id)
            raise

    def _heed(self, said: Mapping[str, Any]) -> None:
        if "mount" in said:
            self._take_on(str(said["mount"]), said["request"])
        elif "gone" in said:
            if not self._asking.is_asked(str(said["gone"])):  # else it is about to be made
                self._let_go(str(said["gone"]))
        elif "made" in said:
            self._asking.answer(said)
        elif "late" in said:
            self._needs.late(str(said["late"]), said["bytes"], said["seconds"])
        elif "line" in said:
            if self._lines.passes("keeper", time.monotonic()) is not None:
                log.warning("keeper: %s", said["line"])
        elif "left" in said:
            with self._changed:
                self._leaving = False

    def _take_on(self, mount_id: str, request: dict[str, Any]) -> None:
        """The keeper has a mount that another filler has made."""
        try:
            wanted = from_json(request)
        # Written by another version, or damaged: its windows stay absent, those of the others need not.
        except Exception as error:  # noqa: BLE001
            log.error("mount %s: what it shows cannot be told: %s", mount_id, error)
            return
        self._open(self._mounts.add(mount_id, wanted))

    def _open(self, wanted: ImageRequest) -> None:
        self._store.bound(wanted.cache_size)
        name = image_name(wanted)

        def opened() -> LazyImage:
            if name not in self._mounts.images():
                raise FillerEnds(f"{wanted.reference} is mounted no longer")
            try:
                image = open_request(wanted, self._root)
                if str(image.pinned) != str(wanted.reference):
                    image.close()
                    raise ImageInvalid(f"{wanted.reference} names another image by now")
            except Exception as error:
                self._cannot_fill(wanted.reference, error)
                raise
            return image

        self._fillings.begin(name, opened, background=wanted.background)

    def _let_go(self, mount_id: str) -> None:
        """The mount is gone."""
        self._mounts.forget(mount_id)
        for forgetting in (forget_hold, forget_reads):
            with suppress(OSError):
                forgetting(self._store.root, mount_id)
        self._wake()

    def _opened(self) -> None:
        self._needs.opened()
        self._wake()

    def _have(self, window_id: str, end: int = _WHOLE) -> None:
        if self._link is not None:  # else there is no mount yet that it could be news for
            self._link.have(window_id, end)

    def _lost(self, window_id: str, until: int) -> None:
        if self._link is not None:
            self._link.lost(window_id, until)

    def _say(self, words: Mapping[str, Any]) -> None:
        if self._link is not None:
            self._link.say(words)

    def _wake(self) -> None:
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def _tidy(self) -> None:
        """Let go of what is complete or mounted nowhere; with nothing left, ask whether to leave."""
        while True:
            with self._changed:
                told = self._changed.wait_for(lambda: self._news, _LOOK_SECONDS)
                self._news = False
            if not told:
                self._fillings.look_again()
            if self._making == 0:  # else some of it may be of mounts that nobody knows yet
                for name, filling in self._fillings.complete():
                    self._tell_facts(name, filling)
                    self._fillings.let_go(name)
                for name in self._unshown():
                    self._fillings.let_go(name)
            with self._changed:
                idle = self._is_idle() and not self._changed.wait_for(
                    lambda: not self._is_idle(), _LINGER_SECONDS
                )
                self._leaving = idle
            if idle:
                self._say({"ask": "leave"})

    def _unshown(self) -> set[str]:
        """What is filled and mounted nowhere, nor about to be."""
        names = self._fillings.names()
        with self._changed:
            return set() if self._making else names - self._mounts.images().keys()

    def _tell_facts(self, name: str, filling: Filling) -> None:
        """Leave what filling the image has cost, and what was read, to those who outlive this process."""
        facts = asdict(filling.attachment.progress())
        for mount_id in self._mounts.showing(name):
            self._mounts.keep_facts(mount_id, facts)
            self._say({"ask": "tell", "mount": mount_id, "facts": facts})
            with suppress(OSError):
                keep_reads(self._store.root, mount_id, filling.reads)

    def _cannot_fill(self, reference: Reference, error: Exception) -> None:
        # Said again whenever a reader comes and the image cannot be opened.
        if self._lines.passes("open", time.monotonic()) is not None:
            log.error("what is mounted of %s cannot be filled: %s", reference, error)

    def _is_idle(self) -> bool:
        return not self._making and not self._needs.waiting and not self._fillings.busy
