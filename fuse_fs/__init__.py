"""An image as a directory through FUSE: `tree` says what it shows, `mount` serves that to the kernel."""
