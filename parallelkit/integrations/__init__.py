"""Other libraries' interfaces on parallelkit's workers."""
