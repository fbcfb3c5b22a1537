"""Figures of matplotlib that show themselves in a notebook."""

from __future__ import annotations

from typing import Any

__all__ = ["figure"]


def figure(width: float, height: float) -> Any:
    """A figure of so many inches, whether or not pyplot is loaded.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that a notebook shows."""

        def _repr_png_(self) -> bytes:
            import io

            file = io.BytesIO()
            self.savefig(file, format="png", dpi=110)
            return file.getvalue()

    made = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made
