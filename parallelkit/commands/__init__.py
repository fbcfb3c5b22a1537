"""The command line: sweeps without a script, and what a bug report needs."""

from .line import main

__all__ = ["main"]
