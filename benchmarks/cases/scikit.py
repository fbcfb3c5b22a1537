"""scikit-learn, which calls joblib: on joblib's own workers, and on ours under the name of a backend.

What a search, a validation or a forest gives must be what it gives in place. Cases are left out where
scikit-learn is not installed.
"""

import importlib.util

from benchmarks import work
from benchmarks.cases.base import Case
from benchmarks.peers import JOBLIB


class _Fitted(Case):
    group = "scikit-learn"
    unit = "ms"
    peers = ("serial", *JOBLIB)
    rounds = (5, 2)
    numpy = True
    sizes = {"full": {"n": 500}, "quick": {"n": 200}, "tiny": {"n": 60}}
    features = 20

    @classmethod
    def available(cls):
        return importlib.util.find_spec("sklearn") is not None

    def setup(self):
        from sklearn.datasets import make_classification

        self.data = make_classification(self.size.n, self.features, random_state=0)
        self.expected = self.fitted(1)

    def fitted(self, n_jobs):
        """Numbers that all must agree on."""
        raise NotImplementedError

    def run(self):
        from joblib import parallel_config

        if self.peer.name == "serial":
            return self.fitted(1)
        with parallel_config(backend=self.peer.backend, n_jobs=self.peer.workers):
            return self.fitted(None)

    def check(self, result):
        import numpy as np

        assert np.array_equal(result, self.expected), "wrong numbers"


class _Search(_Fitted):
    """Scores of a grid search."""

    folds = 5

    def search(self):
        """An estimator, and its grid."""
        raise NotImplementedError

    def fitted(self, n_jobs):
        from sklearn.model_selection import GridSearchCV

        search = GridSearchCV(*self.search(), cv=self.folds, n_jobs=n_jobs)
        return search.fit(*self.data).cv_results_["mean_test_score"]


class SmallFits(_Search):
    name = "scikit-small-fits"
    title = "GridSearchCV, 60 fits of a few ms"
    quick = True

    def search(self):
        import numpy as np
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(max_iter=50, tol=0.1), {"C": np.logspace(-3, 2, 12)}


class TinyFits(_Search):
    name = "scikit-tiny-fits"
    title = "GridSearchCV, 200 fits of less than a ms"

    def search(self):
        import numpy as np
        from sklearn.linear_model import Ridge

        return Ridge(), {"alpha": np.logspace(-3, 2, 40)}


class MoreData(_Search):
    name = "scikit-more-data"
    title = "GridSearchCV, 16 trees on {n} rows of 200 columns"
    sizes = {"full": {"n": 5000}, "quick": {"n": 2000}, "tiny": {"n": 100}}
    features = 200
    folds = 4

    def search(self):
        from sklearn.tree import DecisionTreeClassifier

        return DecisionTreeClassifier(random_state=0), {"max_depth": [2, 3, 4, 5]}


class Validation(_Fitted):
    name = "scikit-validation"
    title = "cross_validate, 5 fits of a few ms"

    def fitted(self, n_jobs):
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_validate

        return cross_validate(LogisticRegression(), *self.data, cv=5, n_jobs=n_jobs)["test_score"]


class Forest(_Fitted):
    name = "scikit-forest"
    title = "RandomForestClassifier, 40 trees"

    def fitted(self, n_jobs):
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(40, max_depth=6, random_state=0, n_jobs=n_jobs)
        return forest.fit(*self.data).feature_importances_


class ShortCall(Case):
    """``Parallel`` objects one after the other, as libraries make them."""

    name = "joblib-short-call"
    title = "Parallel(...)(...) of 2 tasks"
    group = "scikit-learn"
    peers = JOBLIB
    sizes = {"full": {"n": 2}, "quick": {"n": 2}, "tiny": {"n": 2}}
    quick = True

    def run(self):
        return self.peer.map_anew(work.increment, range(self.items))

    def check(self, result):
        assert result == [x + 1 for x in range(self.items)], "wrong results"


_FITTED = (SmallFits, TinyFits, MoreData, Validation, Forest)
CASES = (*(case for case in _FITTED if case.available()), ShortCall)
