"""What can keep an image from being opened, mounted or unmounted, one class per decision of the caller.

What the packages below raise (registry, format, store, FUSE) passes through as it is. What can go wrong with
a container is in `containers.run_errors`.
"""

from __future__ import annotations


class LaunchError(Exception):
    """Root of everything `launch` raises on purpose."""


class ImageNotConverted(LaunchError):
    """An ordinary image: `nopull convert` makes it lazily loadable, or it is run from a full pull."""


class ImageIncomplete(LaunchError):
    """Not all of the image is local, this mount needs all of it, and nothing may be fetched."""


class ImageUnsound(LaunchError):
    """A check has found something. All of it has been told."""


class RegistryRefuses(LaunchError):
    """A registry answers and lets us in by no way. What it says to each has been told."""


class RegistrySilent(LaunchError):
    """A registry does not answer, whichever way it is asked. What was tried has been told."""


class ImageInvalid(LaunchError):
    """A converted image whose parts contradict each other. Only converting it again helps."""


class ConfigInvalid(LaunchError):
    """The image's config is not what the OCI image specification says."""


class MountImpossible(LaunchError):
    """The place or this machine does not allow the mount; the image is fine."""


class FillerEnds(MountImpossible):
    """The process that would have made the mount was about to end; the next one can be asked."""


class MountBusy(MountImpossible):
    """Something is mounted there, or still uses what is mounted there."""


class MountpointForbidden(MountImpossible):
    """This user may not look at the place."""


class MetricsMissing(LaunchError):
    """Metrics were asked for, and what serves them is not installed."""


class MetricsUnservable(LaunchError):
    """Nobody can listen at the address metrics were asked for at."""


class NotMounted(LaunchError):
    """Nothing of ours is mounted at that place."""


class ServerFailed(LaunchError):
    """The mount server ended before its mount was ready; its log says more."""


class ServerSilent(LaunchError):
    """The mount server does not answer questions; it may still serve its mount."""


class StateUnusable(LaunchError):
    """The state directory cannot be created, read or written."""
