"""The command ``python -m parallelkit``."""

import signal
import sys

from .commands import main

if __name__ == "__main__":
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said and stored; pools are closed now
    sys.exit(code)
