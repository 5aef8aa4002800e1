"""Containers of lazily mounted images: the specification, the runtime, and what is left to take away."""
