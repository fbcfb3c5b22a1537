"""Where am I, and what is mine: the nest, the machine, other libraries, BLAS, Ctrl-C."""
