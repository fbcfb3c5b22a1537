"""Results that are files beside the store: named by their content, and read when they are needed.

::

    run.db        the table
    run.files/    7f3c….npy  91ab….parquet  c04e….pickle

The same content is stored once, whatever points have it. A file is there before the row that names
it; what a killed sweep leaves is found again by its name, or a file too many.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
from collections.abc import Callable
from typing import Any

from ..errors import StoreError
from ..place.replacing import replace
from .database import DAMAGES, clean

__all__ = ["LARGE", "Artifact", "Files", "artifact", "folder_of", "is_frame", "is_model"]

LARGE = 1 << 20  # bytes of an array from which on it is a file
_NAME = re.compile(r"[0-9a-f]{32}\.(npy|parquet|pickle)")


def folder_of(path: str) -> str:
    """Folder of the files that belong to a store."""
    return f"{os.path.splitext(path)[0]}.files"


class Artifact:
    """A result that is a file beside its store: a data frame, a model, an array.

    Attributes
    ----------
    path : str
        Of the file.
    kind : {"npy", "parquet", "pickle"}
    summary : str
        What it is, such as ``DataFrame 1000×3``.

    Examples
    --------
    >>> from parallelkit.sweeps.artifacts import Artifact
    >>> Artifact("run.files/7f3c.parquet", "DataFrame 1000×3")
    <DataFrame 1000×3 in run.files/7f3c.parquet: .load() reads it>
    """

    def __init__(self, path: str, summary: str, pickle: bool = False) -> None:
        self.path = path
        self.kind = os.path.splitext(path)[1][1:]
        self.summary = summary
        self._pickle = pickle

    def load(self) -> Any:
        """Read it.

        Returns
        -------
        DataFrame, Series, array or object
            An array is mapped into memory, and read as far as it is used.

        Raises
        ------
        StoreError
            If the file is missing or damaged, or a pickle that was not asked for.
        """
        if self.kind == "pickle" and not self._pickle:
            raise StoreError(
                f"{self.path!r} is a pickle, and to load it runs code of whoever made it; if you "
                "trust it: open_sweep(path, pickle=True)"
            )
        try:
            return _READERS[self.kind](self)
        except FileNotFoundError:
            raise StoreError(
                f"{self.path!r} is missing: copy the folder "
                f"{os.path.basename(os.path.dirname(self.path))!r} along with the store"
            ) from None
        except ImportError as error:
            raise StoreError(f"to read {self.path!r}: pip install pandas pyarrow") from error
        except (OSError, *DAMAGES) as error:
            raise StoreError(f"{self.path!r} is damaged: {clean(str(error))}") from error

    def __repr__(self) -> str:
        return f"<{clean(self.summary)} in {clean(self.path)}: .load() reads it>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(f"an artifact has no {name!r}: .load() gives the {self.summary}")


def artifact(folder: str, name: Any, summary: Any, pickle: bool) -> Any:
    """Return what a row names: an array that is there as such, anything else to be loaded."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(summary, str):
        raise ValueError(f"{name!r:.60} is no name of a file")
    found = Artifact(os.path.join(folder, name), summary, pickle)
    if found.kind == "npy" and os.path.exists(found.path):
        return found.load()
    return found


class Files:
    """The writing side.

    Parameters
    ----------
    folder : str
        Made when the first file is.
    """

    _count = itertools.count()

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def array(self, value: Any) -> list[str]:
        """Store an array; return its file's name and what it is."""
        import numpy as np

        shape = "×".join(map(str, value.shape))
        told = f"array {value.dtype} {shape}"
        return [self._put("npy", lambda file: np.save(file, value, allow_pickle=False)), told]

    def frame(self, value: Any) -> list[str]:
        """Store a data frame or a series; return its file's name and what it is."""
        told = f"{type(value).__name__} {'×'.join(map(str, value.shape))}"
        frame = value.to_frame() if value.ndim == 1 else value
        data = io.BytesIO()
        frame.to_parquet(data, engine="pyarrow")
        return [self._put("parquet", lambda file: file.write(data.getbuffer())), told]

    def pickled(self, value: Any, data: bytes) -> list[str]:
        """Store a pickle; return its file's name and what it is."""
        return [self._put("pickle", lambda file: file.write(data)), type(value).__name__]

    def _put(self, kind: str, write: Callable[[Any], Any]) -> str:
        os.makedirs(self._folder, exist_ok=True)
        draft = os.path.join(self._folder, f".{os.getpid()}-{next(self._count)}")
        try:
            with open(draft, "wb") as raw:
                file = _Hashing(raw)
                write(file)
            name = f"{file.digest.hexdigest()}.{kind}"
            _move(draft, os.path.join(self._folder, name))
        except BaseException:
            if os.path.exists(draft):
                os.unlink(draft)
            raise
        return name


def _move(draft: str, path: str) -> None:
    """Give a draft its name. A file of that name has the same content; mapped, Windows keeps it."""
    try:
        os.replace(draft, path)
    except PermissionError:
        if os.path.exists(path) and os.path.getsize(path) == os.path.getsize(draft):
            os.unlink(draft)
        else:
            replace(draft, path)


class _Hashing:
    """A file that knows the digest of what was written to it."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.digest = hashlib.blake2b(digest_size=16)

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return int(self._raw.write(data))


def _array(of: Artifact) -> Any:
    import numpy as np

    return np.load(of.path, mmap_mode="r", allow_pickle=False)


def _frame(of: Artifact) -> Any:
    import pandas as pd

    frame = pd.read_parquet(of.path, engine="pyarrow")
    if not of.summary.startswith("Series"):
        return frame
    series = frame.iloc[:, 0]
    return series.rename(None) if series.name in ("0", 0) else series


def _object(of: Artifact) -> Any:
    import pickle

    with open(of.path, "rb") as file:
        return pickle.load(file)


_READERS: dict[str, Callable[[Artifact], Any]] = {
    "npy": _array,
    "parquet": _frame,
    "pickle": _object,
}


def is_frame(value: Any) -> bool:
    """Whether something is a data frame or series of pandas, which becomes a Parquet file."""
    kind = type(value)
    return (
        kind.__name__ in ("DataFrame", "Series") and kind.__module__.partition(".")[0] == "pandas"
    )


def is_model(value: Any) -> bool:
    """Whether something is a model, as scikit-learn's are, which becomes a file of its own."""
    return hasattr(value, "get_params") and hasattr(value, "fit") and not isinstance(value, type)
