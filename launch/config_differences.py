"""How the run configuration of a converted image differs from the ordinary one's."""

from __future__ import annotations

import json
from typing import Final

from launch.oci_spec import ImageConfig
from rafs.findings import Finding

_NAMES: Final = {
    "entrypoint": "Entrypoint",
    "command": "Cmd",
    "env": "Env",
    "working_dir": "WorkingDir",
    "user": "User",
}
_SHOWN: Final = 300  # characters of a value


def config_differences(converted: ImageConfig, ordinary: ImageConfig) -> list[Finding]:
    """A finding for each field that is another; one that is absent is as one that is empty."""
    found = []
    for attribute, name in _NAMES.items():
        here, there = (json.dumps(getattr(config, attribute))[:_SHOWN] for config in (converted, ordinary))
        if getattr(converted, attribute) != getattr(ordinary, attribute):
            message = f"{name} is {here}, in the ordinary image {there}"
            found.append(Finding("against-config", "config", message))
    return found
