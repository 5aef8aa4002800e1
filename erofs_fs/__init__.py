"""The kernel mount: a localised image through EROFS, with one device per window of the store."""
