"""parallelkit itself."""

from benchmarks.peers.base import Peer


class Ours(Peer):
    name, title, package, module = "parallelkit", "parallelkit", "parallelkit", "parallelkit"
    options = {}

    def _options(self):
        chosen = {"chunksize": self.chunksize, "start_method": self.start_method}
        given = {name: value for name, value in chosen.items() if value}
        return {"workers": self.workers, **self.options, **given}

    def start(self):
        import parallelkit as pk

        self.pool = pk.Pool(**self._options())

    def close(self):
        import parallelkit as pk

        self.pool.close()
        pk.shutdown()

    def map(self, func, items, **frozen):
        return self.pool.map(func, items, **frozen)

    def imap(self, func, items):
        return self.pool.imap(func, items)

    def uimap(self, func, items):
        return self.pool.uimap(func, items)

    def submit(self, func, item):
        return self.pool.submit(func, item).result

    def map_blocks(self, func, array, **frozen):
        import parallelkit as pk

        with pk.configure(**self._options()):
            return pk.map_blocks(func, array, **frozen)


class OursThreads(Ours):
    name, title, kind = "parallelkit-threads", "parallelkit, threads", "thread"
    options = {"backend": "thread"}


class OursReturn(Ours):
    """For ``benchmarks.faults``: failures take their item's place."""

    name, title = "parallelkit-return", 'parallelkit, on_error="return"'
    options = {"on_error": "return"}


class OursRetry(Ours):
    """For ``benchmarks.faults``: an item whose worker died is tried again."""

    name, title = "parallelkit-retry", "parallelkit, retries=1"
    options = {"retries": 1}
