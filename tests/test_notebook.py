"""A notebook, run without anybody at the keyboard: what it shows, and that Ctrl-C stops "Run All"."""

import base64
import os
from pathlib import Path

import pytest

import parallelkit as pk

nbclient = pytest.importorskip("nbclient", reason="make test-notebook installs it")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # of what runs notebooks
]

HOME = Path(pk.__file__).parents[1]
EXAMPLE = HOME / "examples" / "sweep.ipynb"
INTERRUPTED = """
import signal, time
import parallelkit as pk
def work(x):
    if x == 3:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0)
    return x
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a notebook in a folder of its own; whatever it shows is in its cells."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HOME), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))

    def runs(notebook):
        client = nbclient.NotebookClient(
            notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute()
        return notebook

    return runs


def shown(notebook, kind):
    """What the cells show of a kind, such as ``image/png``."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def test_a_notebook_shows_table_curves_and_heatmap(run, tmp_path):
    """Its tables are tables, its figures pictures, each once; the pictures are kept to be looked at."""
    notebook = run(nbformat.read(EXAMPLE, 4))
    assert not [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output["output_type"] in ("error", "stream")
    ]
    whole, means, early = (page for page in shown(notebook, "text/html") if "<table" in page)
    assert "18 points" in whole
    assert "means over repeat" in means
    assert "accuracy.sem" in means
    assert "9 points" in early
    pictures = [base64.b64decode(text) for text in shown(notebook, "image/png")]
    assert len(pictures) == 3
    folder = Path(os.environ.get("NOTEBOOK_PICTURES", tmp_path))
    for name, picture in zip(("plot", "heatmap", "curves"), pictures, strict=True):
        assert picture.startswith(b"\x89PNG")
        (folder / f"{name}.png").write_bytes(picture)
    assert len(pk.open_sweep(tmp_path / "notebook.db")) == 18


def test_an_interrupted_sweep_stops_run_all(run):
    """The cell has an error, the cells below it do not run, and the table is in the exception."""
    cells = [
        INTERRUPTED + "pk.Sweep(backend='serial').run(work, pk.grid(x=range(6)))",
        "print('went on')",
    ]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="3 points finished"):
        run(notebook)
    assert notebook.cells[0].outputs[-1]["ename"] == "SweepInterrupted"
    assert notebook.cells[1].outputs == []
