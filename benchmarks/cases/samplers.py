"""Samplers and optimisers of others, which call ``pool.map`` a thousand times with a handful of items.

Each gets the pool as its own documentation tells. The random numbers are seeded, so all sides must give the same
numbers as the library does without a pool. The packages are in the extra ``bench``; cases without theirs are left out.
"""

import importlib.util
import logging
import random
import warnings

from benchmarks import work
from benchmarks.cases.base import Case

LOCAL = ("serial", "parallelkit", "pool", "executor", "pathos")


class Sampled(Case):
    """A library's own loop around a function of a few µs."""

    group = "samplers"
    unit = "ms"
    peers = LOCAL
    rounds = (5, 3)
    numpy = True
    package = ""
    sizes = {"full": {"steps": 100}, "quick": {"steps": 40}, "tiny": {"steps": 3}}

    @classmethod
    def available(cls):
        return importlib.util.find_spec(cls.package) is not None

    def setup(self):
        import numpy as np

        np.random.seed(1)  # noqa: NPY002 - what some of these libraries draw from
        self.start = np.random.normal(size=(16, 5))  # noqa: NPY002
        self.expected = self.sample(None)

    def sample(self, pool):
        """The library's numbers, of a pool or without."""
        raise NotImplementedError

    def run(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.sample(None if self.peer.name == "serial" else self.peer.pool)

    def check(self, result):
        import numpy as np

        assert np.array_equal(result, self.expected), "wrong numbers"


class Emcee(Sampled):
    name, package = "emcee", "emcee"
    title = "emcee, 16 walkers, {steps} steps"
    quick = True

    def sample(self, pool):
        import emcee
        import numpy as np

        sampler = emcee.EnsembleSampler(16, 5, work.log_probability, pool=pool)
        sampler.random_state = np.random.RandomState(2).get_state()
        sampler.run_mcmc(self.start, self.size.steps)
        return sampler.get_chain()


class EmceeLonger(Emcee):
    name = "emcee-longer"
    title = "emcee, 16 walkers, {steps} steps of 0.3 ms items"
    quick = False

    def sample(self, pool):
        import emcee
        import numpy as np

        sampler = emcee.EnsembleSampler(16, 5, work.long_log_probability, pool=pool)
        sampler.random_state = np.random.RandomState(2).get_state()
        sampler.run_mcmc(self.start, self.size.steps)
        return sampler.get_chain()


class Zeus(Sampled):
    name, package = "zeus", "zeus"
    title = "zeus, 16 walkers, {steps} steps"
    sizes = {"full": {"steps": 40}, "quick": {"steps": 15}, "tiny": {"steps": 2}}

    def sample(self, pool):
        import numpy as np
        import zeus

        logging.disable(logging.INFO)
        try:
            random.seed(3)
            np.random.seed(3)  # noqa: NPY002
            sampler = zeus.EnsembleSampler(16, 5, work.log_probability, pool=pool, verbose=False)
            sampler.run_mcmc(self.start, self.size.steps, progress=False)
            return sampler.get_chain()
        finally:
            logging.disable(logging.NOTSET)


class Dynesty(Sampled):
    name, package = "dynesty", "dynesty"
    title = "dynesty, 50 live points, {steps} iterations"
    sizes = {"full": {"steps": 300}, "quick": {"steps": 100}, "tiny": {"steps": 5}}

    def setup(self):
        self.expected = None

    def sample(self, pool):
        import dynesty
        import numpy as np

        sampler = dynesty.NestedSampler(
            work.log_probability,
            work.prior_transform,
            5,
            nlive=50,
            rstate=np.random.default_rng(4),
            pool=pool,
            queue_size=None if pool is None else 2,
        )
        sampler.run_nested(maxiter=self.size.steps, print_progress=False)
        return sampler.results.logl

    def check(self, result):
        # With a queue of proposals the library takes other points than without.
        assert len(result) >= self.size.steps + 50, "points are missing"


class Evolution(Sampled):
    name, package = "differential-evolution", "scipy"
    title = "SciPy's differential_evolution, {steps} generations of 75"
    sizes = {"full": {"steps": 40}, "quick": {"steps": 15}, "tiny": {"steps": 2}}

    def sample(self, pool):
        from scipy.optimize import differential_evolution

        found = differential_evolution(
            work.rosenbrock,
            [(-5, 5)] * 5,
            maxiter=self.size.steps,
            tol=0,
            rng=5,
            polish=False,
            updating="deferred",
            workers=map if pool is None else pool.map,
        )
        return found.x


CASES = tuple(case for case in (Emcee, EmceeLonger, Zeus, Dynesty, Evolution) if case.available())
