"""The child process of one contestant in one case.

It gets everything ready, says so, and then measures one round for each line that it reads, until its input ends.
Replies are JSON, one object per line: ``{"ready": ...}``, ``{"seconds": ..., "items": ...}`` or ``{"error": ...}``.
"""

import json
import os
import sys
import traceback


def main(request):
    say = _private_output()
    try:
        from benchmarks import cases, peers

        kind = cases.find(request["case"])
        peer = peers.ALL[request["peer"]](request["workers"])
        case = kind(peer, request["variant"], request["size"])
        case.setup()
        if case.needs_pool:
            peer.start()
            case.warm()
        say({"ready": True, "settings": case.settings()})
        for _ in sys.stdin:
            say(case.measure())
        if case.needs_pool:
            peer.close()
        case.close()
    except BaseException as error:
        say(
            {
                "error": f"{type(error).__name__}: {error}".strip()[:500],
                "traceback": traceback.format_exc(),
            }
        )
        raise


def _private_output():
    """Keep the reply channel to ourselves: whatever workers print goes to stderr."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(reply):
        channel.write(json.dumps(reply) + "\n")
        channel.flush()

    return say


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
