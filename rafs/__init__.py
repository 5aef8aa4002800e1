"""The RAFS v6 image format, pure: bytes in, bytes out. No file, no socket, no thread."""
