"""What can keep a container from running, each a different thing for the user to do.

All of them happen before the container's command has started; what it does afterwards is its own exit code.
"""

from __future__ import annotations

from launch.errors import LaunchError


class RunError(LaunchError):
    """A container could not be prepared or started."""


class RootNeeded(RunError):
    """Containers need privileges this user does not have."""


class RuntimeMissing(RunError):
    """There is no OCI runtime (runc, crun) to run the container with."""


class UserNotFound(RunError):
    """A user or group is not in the image's /etc/passwd or /etc/group."""


class CommandNotFound(RunError):
    """The command is not in the image: exit code 127."""


class CommandNotExecutable(RunError):
    """The command is there but cannot be executed: exit code 126."""


class NameTaken(RunError):
    """A container of that name is running."""


class OverlayFailed(RunError):
    """The writable layer could not be put over the image."""


class RuntimeFailed(RunError):
    """The OCI runtime could not start the container."""
