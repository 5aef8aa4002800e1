"""Images in registries and their mirrors: read, published, diagnosed."""
