"""Images in files on this host: OCI layouts and archives, and what `docker save` writes."""
