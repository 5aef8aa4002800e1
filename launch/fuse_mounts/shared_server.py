"""One process that serves many FUSE mounts of a state root: what `nopull mount --shared` asks.

Mounts come and go through its control socket; each is prepared as a server of its own would (`session`). All
share the store, its connections' limits and the interpreter, so that a further mount costs little. It ends
when the last mount is gone. If it is killed all its mounts are dead at once, and repaired one by one.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from chunk_store import ChunkStore, Limits
from chunk_store.lock_file import lock_file
from fuse_fs.device import detach, mount_device
from fuse_fs.session import Session
from fuse_fs.wake_ups import WakeUp, WakeUps
from launch.claim import Claim
from launch.control import ControlServer
from launch.error_relay import describe
from launch.errors import MountImpossible
from launch.forking import give_back_memory
from launch.fuse_mounts.session import Prepared, prepare
from launch.images.lazy_image import LazyImage
from launch.kernel_mounts.silent_keeper import see_to_keeper
from launch.later import Later
from launch.mount_request import from_json
from launch.once import Once
from launch.root import state_directory
from rafs.blob_meta import BlobMeta
from rafs.bootstrap import Bootstrap

log = logging.getLogger("nopull.server")

LOCK, SOCKET = "shared.lock", "shared.sock"  # below `run` in the state root

_LINGER_SECONDS = 1.0  # without a mount, the next one is waited for
_READY_SECONDS = 10.0  # the kernel takes a mount up within this
_LEAVE_SECONDS = 1.0  # for requests that are being answered when the mount is gone


@dataclass(slots=True)
class _Mount:
    undo: ExitStack
    prepared: Prepared
    session: Session


class SharedServer:
    """The mounts of one process. Called with a question, gives the answer (a `control.Answer`)."""

    def __init__(self, root: Path, log_path: Path) -> None:
        self._root = root
        self._log_path = log_path
        self._wake_ups = WakeUps()
        # Protects everything below. Nothing is waited for under it, but for the opening of a store.
        self._lock = threading.Lock()
        self._stores: dict[Path, ChunkStore] = {}
        self._mounts: dict[str, _Mount] = {}
        # Of what is mounted, by digest; gone with the last mount of it.
        self._bootstraps: WeakValueDictionary[str, Bootstrap] = WeakValueDictionary()
        self._blobs: WeakKeyDictionary[Bootstrap, tuple[BlobMeta, ...]] = WeakKeyDictionary()
        self._making = 0
        self._given_up: set[str] = set()  # by whoever asked for them
        self._claims: dict[str, Claim] = {}  # of mounts whose images are being opened
        self._ending = False

    def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until the last mount is gone, or this process is told to end; for the main thread.

        Returns at once, after *on_ready*, if another one serves the root.
        """
        directory = state_directory(self._root, "run")
        lock = lock_file(directory / LOCK)
        if lock is None:
            on_ready()
            return
        with self._wake_ups:
            control = ControlServer(directory / SOCKET, self, self._not_heard)
            on_ready()
            try:
                self._stay()
            finally:
                control.close()
                self._leave()
                os.close(lock)

    def __call__(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        if question.get("ask") == "mount":
            return self._mount(question)
        if question.get("ask") == "give up":
            self._give_up(str(question["id"]))
        with self._lock:
            return {"mounts": sorted(self._mounts), "log": str(self._log_path)}

    def _stay(self) -> None:
        """Return when told to end, or when nothing has been mounted for a while."""
        while True:
            reason = self._wake_ups.wait(_LINGER_SECONDS)
            if reason is WakeUp.STOP:
                break
            if reason is WakeUp.CALLED:
                continue
            with self._lock:
                if not self._mounts and not self._making:
                    self._ending = True
                    return
        with self._lock:
            self._ending = True

    def _leave(self) -> None:
        for mount in list(self._mounts.values()):
            mount.prepared.attachment.close()
            detach(mount.prepared.record.mountpoint)
        for name, mount in list(self._mounts.items()):
            mount.session.wait(_LEAVE_SECONDS)
            self._forget(name)
        for store in self._stores.values():
            store.close()

    def _mount(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._lock:
            if self._ending:
                return {"ending": True}
            self._making += 1
        undo = ExitStack()
        try:
            if question["namespace"] != mount_namespace():
                raise MountImpossible(
                    "the server of shared mounts lives in another mount namespace; mount without --shared"
                )
            return {"record": self._make(question, undo)}
        # Told to whoever asked.
        except BaseException as error:  # noqa: BLE001
            undo.close()
            return {"error": describe(error)}
        finally:
            with self._lock:
                self._making -= 1
            self._wake_ups.call()

    def _make(self, question: Mapping[str, Any], undo: ExitStack) -> Mapping[str, Any]:
        name, request = str(question["id"]), from_json(question["request"])
        claim = undo.enter_context(Claim(request.mountpoint))
        with self._lock:
            self._claims[name] = claim
        undo.callback(self._claims.pop, name, None)
        prepared = prepare(request, name, self._log_path, undo, claim, self._store, self._known)
        give_back_memory()
        taken_up = threading.Event()
        with self._lock:
            if name in self._given_up:
                raise MountImpossible(f"{request.mountpoint}: nobody wants the mount any more")
            del self._claims[name]  # from here on it is the mount that is taken away
        device = mount_device(
            claim.mountpoint, allow_other=prepared.allow_other, fsname=prepared.fsname
        )

        def on_end() -> None:
            # Not by this thread, which is one of those that are waited for then.
            Later(lambda: self._forget(name))

        session = Session(prepared.tree, device, taken_up.set, on_end, prepared.asked)
        with self._lock:
            self._mounts[name] = _Mount(undo, prepared, session)
        session.start()
        try:
            if not taken_up.wait(_READY_SECONDS):
                raise MountImpossible(f"the kernel does not take up the mount on {request.mountpoint}")
            claim.release()
            record = prepared.announce(self._root)
            if record is None or name in self._given_up:
                raise MountImpossible(f"{request.mountpoint} was unmounted before it was ready")
        except BaseException:
            detach(prepared.record.mountpoint)
            raise
        Later(prepared.attachment.make_files)
        return record.to_json()

    def _store(self, place: Path, limits: Limits) -> ChunkStore:
        if place not in self._stores:
            see_to_keeper(place, self._root)
        with self._lock:
            store = self._stores.get(place)
            if store is None:
                store = self._stores[place] = ChunkStore(place, limits=limits)
        store.bound(limits.cache_bytes)
        return store

    def _known(self, image: LazyImage) -> LazyImage:
        """*image* with the tables of another mount of it, if there is one."""
        with self._lock:
            bootstrap = self._bootstraps.setdefault(image.digest, image.bootstrap)
            known = self._blobs.get(bootstrap)
        blobs = known or image.blobs
        with self._lock:
            blobs = self._blobs.setdefault(bootstrap, blobs)
        return replace(image, bootstrap=bootstrap, tables=Once(lambda: blobs))

    def _give_up(self, name: str) -> None:
        with self._lock:
            self._given_up.add(name)
            mount = self._mounts.get(name)
            claim = self._claims.get(name)
        if claim is not None:
            claim.release()  # the opening may take its time
        if mount is not None:
            detach(mount.prepared.record.mountpoint)

    def _not_heard(self, question: Mapping[str, Any]) -> None:
        """Who asked was killed, so nobody knows of the mount."""
        if question.get("ask") == "mount":
            self._give_up(str(question["id"]))

    def _forget(self, name: str) -> None:
        """The mount is gone, or this process ends."""
        with self._lock:
            mount = self._mounts.pop(name, None)
        if mount is None:
            return
        if mount.session.wait(0):
            mount.session.close(_LEAVE_SECONDS)
        mount.undo.close()
        self._wake_ups.call()


def mount_namespace() -> str:
    """What names the mount namespace of this process."""
    return os.readlink("/proc/self/ns/mnt")  # noqa: PTH115 - no path, a name
