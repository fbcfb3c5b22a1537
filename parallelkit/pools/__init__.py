"""Pools run opaque chunks and yield what came of them as they finish."""
