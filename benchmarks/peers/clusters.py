"""Dask and Ray: libraries for many machines, here on the loopback of one.

Each is started for one contestant, listens on 127.0.0.1 only, shows no dashboard, and is ended with it.
"""

import os
import tempfile

from benchmarks.peers.base import Peer, bind


class Dask(Peer):
    name, title, package, module = "dask", "Dask", "distributed", "distributed"
    cluster = True

    def start(self):
        from distributed import Client, LocalCluster

        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.local = LocalCluster(
            n_workers=self.workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            local_directory=self.folder.name,
            silence_logs="CRITICAL",
        )
        self.client = Client(self.local)

    def close(self):
        self.client.close()
        self.local.close()
        self.folder.cleanup()

    def map(self, func, items, **frozen):
        if self.chunksize:
            import dask.bag

            bag = dask.bag.from_sequence(items, partition_size=self.chunksize)
            return bag.map(func, **frozen).compute(scheduler=self.client)
        frozen = {name: self._constant(value) for name, value in frozen.items()}
        # pure=False: else equal arguments run once
        return self.client.gather(self.client.map(func, list(items), pure=False, **frozen))

    def _constant(self, value):
        """Large constants are scattered, as its documentation says."""
        if getattr(value, "nbytes", 0) < 100_000:
            return value
        return self.client.scatter(value, broadcast=True, hash=False)

    def imap(self, func, items):
        for future in self.client.map(func, list(items), pure=False):
            yield future.result()

    def uimap(self, func, items):
        from distributed import as_completed

        futures = self.client.map(func, list(items), pure=False)
        for _, result in as_completed(futures, with_results=True):
            yield result

    def submit(self, func, item):
        return self.client.submit(func, item, pure=False).result


class Ray(Peer):
    name, title, package, module = "ray", "Ray", "ray", "ray"
    cluster = True

    def start(self):
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # its future default; else it warns
        import ray

        self.folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        ray.init(
            num_cpus=self.workers,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=2**30,
            _node_ip_address="127.0.0.1",
            _temp_dir=self.folder.name,
        )
        self.ray = ray
        self.remotes = {}

    def close(self):
        self.ray.shutdown()
        self.folder.cleanup()

    def _remote(self, func):
        """The function as a remote one; made once, as its decorator would."""
        try:
            return self.remotes[func]
        except KeyError:
            return self.remotes.setdefault(func, self.ray.remote(func))
        except TypeError:  # a partial of something that has no hash
            return self.ray.remote(func)

    def map(self, func, items, **frozen):
        if self.chunksize:
            run = self._remote(_each)
            items = list(items)
            lots = [items[at : at + self.chunksize] for at in range(0, len(items), self.chunksize)]
            bound = self.ray.put(bind(func, frozen))
            lists = self.ray.get([run.remote(bound, lot) for lot in lots])
            return [result for results in lists for result in results]
        if hasattr(func, "func"):  # Ray takes functions, not partials
            func, frozen = func.func, {**func.keywords, **frozen}
        run = self._remote(func)
        constants = {name: self.ray.put(value) for name, value in frozen.items()}
        return self.ray.get([run.remote(item, **constants) for item in items])

    def imap(self, func, items):
        keywords = {}
        if hasattr(func, "func"):
            func, keywords = func.func, func.keywords
        run = self._remote(func)
        references = [run.remote(item, **keywords) for item in items]
        references.reverse()
        while references:
            yield self.ray.get(references.pop())

    uimap = imap

    def submit(self, func, item):
        reference = self._remote(func).remote(item)
        return lambda: self.ray.get(reference)


def _each(func, items):
    return [func(item) for item in items]
