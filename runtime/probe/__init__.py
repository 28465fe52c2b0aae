"""Cold start and memory of a candidate, measured in a process of its own that a crash or the kernel may end."""
