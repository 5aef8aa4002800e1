"""An OCI image becomes a RAFS image: layers are merged, chunks are shared, what is new is published."""
