"""`map_blocks` of pandas' frames: blocks of rows go out as frames, and frames are joined again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .engine.run import Watch, gather
from .options import Options
from .place.attributes import attribute
from .values.call import Call

__all__ = ["is_frame", "map_frames", "refuse_others"]


def is_frame(value: object) -> bool:
    """Tell whether this is a DataFrame or a Series of pandas, or of a class derived from them."""
    return attribute(value, "iloc") is not None and _made_by(value, "pandas")


def refuse_others(value: object) -> None:
    """Refuse frames that numpy would turn into something else without a word."""
    if _made_by(value, "polars"):
        raise TypeError(
            "map_blocks cuts arrays and pandas' frames; for polars write "
            "polars.concat(pk.map(func, list(frame.iter_slices(10_000))))"
        )


def map_frames(
    func: Callable[..., Any],
    inputs: Sequence[Any],
    cut: Sequence[slice],
    frozen: Mapping[str, Any],
    options: Options,
    watch: Watch,
) -> Any:
    """Call `func` on the rows in each slice; join what it gives along the rows."""
    parts = [
        [value.iloc[rows] if is_frame(value) else value[rows] for rows in cut] for value in inputs
    ]
    results = gather(Call(func, tuple(parts), dict(frozen)), options, watch)
    framed = [is_frame(result) for result in results]
    if all(framed):
        import pandas as pd

        return pd.concat(results)
    if any(framed):
        odd = framed.index(not framed[0])
        raise TypeError(
            f"the results of blocks cannot be joined: block 0 gave a {type(results[0]).__name__}, "
            f"block {odd} a {type(results[odd]).__name__}"
        )
    arrays = [np.asarray(result) for result in results]
    return np.array(results) if arrays[0].ndim == 0 else np.concatenate(arrays)


def _made_by(value: object, package: str) -> bool:
    return any(kind.__module__.partition(".")[0] == package for kind in type(value).__mro__)
