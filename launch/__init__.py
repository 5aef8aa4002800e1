"""From a reference to a mount or a running container: the processes that serve images, and their verbs."""
