"""Sweeps: a function over many points of parameters, into a table that survives a crash."""
