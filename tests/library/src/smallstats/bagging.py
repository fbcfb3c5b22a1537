"""An estimator for scikit-learn, which trains its members in parallel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin, clone

import parallelkit as pk

__all__ = ["Bagged"]


class Bagged(RegressorMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn ships no types
    """The mean of what members predict, each of which has learnt from samples drawn anew."""

    def __init__(self, member: Any, size: int = 5, seed: int | None = None) -> None:
        self.member = member
        self.size = size
        self.seed = seed

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> Bagged:
        """Train the members."""
        self.pool_ = pk.Pool(seed=self.seed, library=True)
        self.members_ = self.pool_.map(self._fitted, range(self.size), X=X, y=y)
        return self

    def _fitted(self, _: int, *, X: Any, y: Any, rng: np.random.Generator) -> Any:
        rows = rng.integers(len(X), size=len(X))
        member: Any = clone(self.member)
        return member.fit(X[rows], y[rows])

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        """Mean of the predictions."""
        mean: NDArray[Any] = np.mean(self.pool_.map(_predicted, self.members_, X=X), axis=0)
        return mean


def _predicted(member: Any, *, X: Any) -> Any:
    return member.predict(X)
