"""Objects to bytes and segments and back, and the code that runs in a worker process."""
