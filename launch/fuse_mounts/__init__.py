"""FUSE mounts: the server process of one or of many, and how a command starts and asks it."""
