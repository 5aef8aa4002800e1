"""TLS settings: one context per set of options, built when the first HTTPS connection needs it.

Building one parses the machine's whole certificate bundle (tens of milliseconds), so plain HTTP never
gets here.
"""

from __future__ import annotations

import functools
import ssl
from pathlib import Path

from registry_client.errors import Unreachable


@functools.cache
def context(verify: bool, ca_file: Path | None) -> ssl.SSLContext:
    """The context for connections that do or do not *verify* certificates; trusts *ca_file* in addition.

    Raises:
        Unreachable: *ca_file* cannot be read.
    """
    built = ssl.create_default_context()
    built.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        built.check_hostname = False
        built.verify_mode = ssl.CERT_NONE
    elif ca_file is not None:
        try:
            built.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise Unreachable(
                f"cannot use {ca_file} as certificate authority: {error}", temporary=False
            ) from error
    return built
