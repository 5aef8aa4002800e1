"""What is lazy, what is not, and why: of an image's layers, and of a mount while it lives.

Collects facts and puts them into words; decides nothing. The dictionaries are what `nopull explain --json`
prints, so their keys are part of the command's interface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunk_store.byte_size import human_size
from chunk_store.priority import CLASSES
from erofs_fs.pids import resident_bytes
from rafs.counted import counted
from registry_client.media_type import GZIP_LAYERS, ZSTD_LAYERS, MediaType

if TYPE_CHECKING:
    from launch.mounts import MountRecord
    from registry_client.manifest import Descriptor, Manifest

ROLES = {
    "server": "answers the kernel, fetches what is absent, verifies every chunk",
    "keeper": "has the kernel ask before it reads what is absent, and lets readers go on",
    "filler": "fetches what is absent, verifies every chunk",
}

BLOB_REASON = "fetched in pieces when they are touched; the rest follows in the background"
FILLED_REASON = "fetched whole, before the mount: this kernel does not ask before it reads"
BOOTSTRAP_REASON = "the file tree and the tables of the chunks: fetched whole, before everything else"


def explain_layers(manifest: Manifest, converted: bool) -> list[dict[str, Any]]:
    """Each layer, whether it is fetched lazily, and why."""
    last = len(manifest.layers) - 1
    return [
        _explain_layer(layer, converted, bootstrap=converted and number == last)
        for number, layer in enumerate(manifest.layers)
    ]


def explain_image(
    reference: str, digest: str, manifest: Manifest | None, *, converted: bool
) -> dict[str, Any]:
    """An image by its name: what it is, and its layers; a bare bootstrap (no *manifest*) has none."""
    layers = [] if manifest is None else explain_layers(manifest, converted)
    return {"reference": reference, "digest": digest, "converted": converted, "layers": layers}


def explain_mount(record: MountRecord, root: Path) -> dict[str, Any]:
    """A mount: its image, driver, processes, and what has been fetched for whom.

    A server that does not answer leaves the counters out, with `silent` saying why.
    """
    from launch import mounts
    from launch.control import ask
    from launch.errors import ServerSilent

    facts: dict[str, Any] = {
        "mountpoint": str(record.mountpoint),
        "reference": record.reference,
        "digest": record.digest,
        "state": mounts.state_of(record).value,
        "driver": record.driver,
        "driver_reason": record.driver_reason,
        "pids": _roles(record.pids),
        "log": str(record.log),
        "warnings": list(record.warnings),
        "metrics": record.metrics,
        "background": record.background,
        "progress": None,
        "resident_bytes": None,
        "silent": None,
        "keeper": None,
        "layers": _kept_layers(record, root),
    }
    if not record.pids:
        from launch.kernel_mounts.kernel_facts import kernel_facts

        found = kernel_facts(record)
        facts["progress"] = found.progress
        facts["pids"] = _roles(found.pids)
        facts["resident_bytes"] = sum(one["resident_bytes"] for one in facts["pids"]) or None
        facts["keeper"] = found.keeper
        facts["silent"] = None if found.pids else "no process works for this mount"
        return facts
    try:
        status = ask(record.control)
    except ServerSilent as error:
        facts["silent"] = str(error)
    else:
        facts["progress"] = status.get("progress")
        facts["resident_bytes"] = status.get("resident_bytes")
    return facts


def mount_lines(facts: Mapping[str, Any]) -> list[str]:
    """The facts of `explain_mount` for people."""
    pinned = f"{facts['reference']}@{facts['digest']}" if facts["digest"] else facts["reference"]
    lines = [
        f"{facts['mountpoint']} shows {pinned} ({facts['state']})",
        f"driver   {facts['driver']}: {facts['driver_reason']}",
    ]
    lines += [
        f"process  {one['pid']}, {one['role']}: {one['does']}{_resident(one)}" for one in facts["pids"]
    ]
    if not facts["pids"]:
        lines.append("process  none is needed: the kernel holds the image and its windows")
    if facts["metrics"] is not None:
        lines.append(f"metrics  http://{facts['metrics']}/metrics")
    lines += [f"warning  {warning}" for warning in facts["warnings"]]
    progress = facts["progress"]
    if progress is None:
        lines.append(f"counters unknown: {facts['silent'] or 'the server did not say'}")
    else:
        lines += _progress_lines(progress, background=facts["background"])
    if facts["keeper"] is not None:
        lines.append(_keeper_line(facts["keeper"]))
    return [*lines, *layer_lines(facts["layers"])]


def image_lines(facts: Mapping[str, Any]) -> list[str]:
    """What `explain_image` found, for people."""
    converted = facts["converted"]
    kind = "converted: can be mounted before its data is here" if converted else "ordinary: not converted"
    return [f"{facts['reference']}@{facts['digest']}", kind, *layer_lines(facts["layers"])]


def layer_lines(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The layers of `explain_layers` for people."""
    lines = []
    for number, layer in enumerate(layers, 1):
        verdict = "lazy" if layer["lazy"] else "not lazy"
        lines.append(f"layer {number}  {layer['digest'][:19]}…  {human_size(layer['size']):>9}  {verdict}")
        lines.append(f"         {layer['reason']}")
    return lines


def _explain_layer(layer: Descriptor, converted: bool, *, bootstrap: bool) -> dict[str, Any]:
    if bootstrap:
        lazy, reason = False, BOOTSTRAP_REASON
    elif converted and layer.media_type == MediaType.NYDUS_BLOB:
        lazy, reason = True, BLOB_REASON
    else:
        lazy, reason = False, _ordinary_reason(layer.media_type)
    return {
        "digest": layer.digest,
        "size": layer.size,
        "media_type": layer.media_type,
        "lazy": lazy,
        "reason": reason,
    }


def _ordinary_reason(media_type: str) -> str:
    packing = "gzip" if media_type in GZIP_LAYERS else "zstd" if media_type in ZSTD_LAYERS else ""
    what = f"a tar in one {packing} stream" if packing else "a tar"
    return f"{what}: has to be read from its first byte, nothing in it can be found before; convert the image"


def _kept_layers(record: MountRecord, root: Path) -> list[dict[str, Any]]:
    from launch.images import image_cache
    from registry_client.digest import Digest

    if record.image is None:
        return []
    kept = image_cache.load(root, Digest(f"sha256:{record.image.name}"))
    layers = [] if kept is None else explain_layers(kept.manifest, converted=True)
    if not record.lazy:
        for layer in layers:
            if layer["lazy"]:
                layer |= {"lazy": False, "reason": FILLED_REASON}
    return layers


def _roles(pids: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {"role": role, "pid": pid, "does": ROLES.get(role, ""), "resident_bytes": resident_bytes(pid)}
        for role, pid in sorted(pids.items())
    ]


def _resident(one: Mapping[str, Any]) -> str:
    resident = one["resident_bytes"]
    return "" if not resident else f" ({human_size(resident)} of memory)"


def _keeper_line(keeper: Mapping[str, Any]) -> str:
    counts, watched = keeper["counts"], counted(keeper["watched"], "window")
    return (
        f"kernel   asked {counted(counts['events'], 'time')}, of which {counts['waited']} waited,"
        f" {keeper['waited_seconds']:.2f} s in all; {watched} watched"
        " (all mounts of the store)"
    )


def _progress_lines(progress: Mapping[str, Any], *, background: bool) -> list[str]:
    present, total = progress["windows_present"], progress["windows_total"]
    share = 100 * progress["bytes_present"] // progress["bytes_total"] if progress["bytes_total"] else 100
    sizes = f"{human_size(progress['bytes_present'])} of {human_size(progress['bytes_total'])}"
    lines = [f"local    {present} of {counted(total, 'window')}, {sizes} ({share} %)"]
    lacking, evicted = total - present, progress.get("windows_evicted", 0)  # none from before an upgrade
    if lacking:
        missing = human_size(progress["bytes_total"] - progress["bytes_present"])
        rest = ", else behind that" if background and not evicted else ""
        lines.append(f"missing  {counted(lacking, 'window')}, {missing}: fetched when read{rest}")
    if "demand" not in progress:
        return lines  # nobody is left who has counted
    if evicted:
        rest = "; the others else behind that" if background and evicted < lacking else ""
        lines.append(f"evicted  {evicted} of these made room: fetched again only when read{rest}")
    if awaited := progress["windows_awaited"]:
        hold = "an absent window holds" if awaited == 1 else f"{awaited} absent windows hold"
        lines.append(f"waiting  somebody reads what {hold}")
    waited = f"readers waited {progress['waited_seconds']:.2f} s in all"
    windows = counted(progress["touched_windows"], "window")
    touched = f"{windows}, {human_size(progress['touched_bytes'])} of pages"
    lines += [
        f"touched  {touched}; {waited}",
        "fetched  for         requests   windows    bytes",
    ]
    for name in CLASSES:
        count = progress[name]
        size = human_size(count["compressed_bytes"])
        lines.append(f"         {name:<10} {count['requests']:>9} {count['windows']:>9}  {size:>9}")
    if progress["trouble"]:
        lines.append(f"trouble  {progress['trouble']}")
    return lines
