"""Mounts of the kernel's own: made by the keeper, filled by the filler, looked after by the verbs."""
