"""The notebooks: run from top to bottom, with tiny settings, and show plots."""

import base64
import io
import json
import pathlib
import re

import matplotlib.image
import numpy as np
import pytest

nbclient = pytest.importorskip("nbclient", reason="not installed: .[dev]")
jupytext = pytest.importorskip("jupytext", reason="not installed: .[dev]")
nbformat = pytest.importorskip("nbformat", reason="not installed: .[dev]")

_ROOT = pathlib.Path(__file__).parents[1]
_FOLDER = _ROOT / "notebooks"
_PAIRS = sorted(_FOLDER.glob("*.py"))
# Of the demo: so one layer is compiled, and all that samples does so by one
# program, where it can.
_FIELDS = {
  "model.scan_unroll": 1,
  "train.max_steps": 4,
  "train.rollouts_kept.share": 0.0,
  "learner.norms_by_kind": False,
  "evals.fractions": "(0.8,)",
  **{
    f"{section}.{size}": 4
    for section in ("screen", "collect", "evals")
    for size in ("rows", "lanes")
  },
}
_LONGEST = 20  # lines of a cell
# Which run first: others go on with the workdir that they leave.
_ORDER = [path.stem for path in _PAIRS]
_ORDER.sort(key=lambda name: name != "quickstart")


def _name(path):
  return path.stem


def _read(path):
  return nbformat.read(path.with_suffix(".ipynb"), as_version=4)


def _code(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


# -- how they are written ------------------------------------------------------


def test_each_has_a_pair():
  assert [p.stem for p in _PAIRS] == sorted(
    p.stem for p in _FOLDER.glob("*.ipynb")
  )
  assert "quickstart" in _ORDER


def _disagreements(script, notebook):
  """Cells that are not the same in a pair's two files."""
  cells = lambda nb: [(c.cell_type, c.source.strip()) for c in nb.cells]
  ours, theirs = cells(jupytext.reads(script, "py:percent")), cells(notebook)
  return [
    *(pair for pair in zip(ours, theirs) if pair[0] != pair[1]),
    *ours[len(theirs) :],
    *theirs[len(ours) :],
  ]


@pytest.mark.parametrize("path", _PAIRS, ids=_name)
def test_script_and_notebook_agree(path):
  """`jupytext --sync notebooks/*.py` makes them agree."""
  assert _disagreements(path.read_text(), _read(path)) == []


@pytest.mark.parametrize("path", _PAIRS, ids=_name)
def test_nothing_of_a_run_is_kept(path):
  notebook = _read(path)
  assert all(not c.outputs and not c.execution_count for c in _code(notebook))
  assert set(notebook.metadata) <= {"jupytext", "kernelspec"}
  # Blank lines of the script, as jupytext notes them.
  assert {k for c in notebook.cells for k in c.metadata} <= {
    "lines_to_next_cell"
  }


@pytest.mark.parametrize("path", _PAIRS, ids=_name)
def test_it_begins_with_a_badge_and_ends_with_where_to_go_on(path):
  first, *_, last = _read(path).cells
  address = re.findall(
    r"\((https://colab\.research[^)]*\.ipynb)\)", first.source
  )
  end = f"/prefixrl_jax/blob/main/notebooks/{path.stem}.ipynb"
  assert len(address) == 1
  assert address[0].endswith(end)
  assert last.cell_type == "markdown"
  assert last.source.startswith("## Where to go on\n")
  assert len(re.findall(r"\]\(", last.source)) >= 2


def test_all_install_the_same_package_from_where_the_badges_are():
  texts = [path.read_text() for path in _PAIRS]
  installs = {_code(_read(path))[0].source for path in _PAIRS}
  assert len(installs) == 1
  [source] = re.findall(r"github\.com/([\w.-]+/prefixrl_jax)", installs.pop())
  for text in texts:
    assert f"colab.research.google.com/github/{source}/blob" in text


@pytest.mark.parametrize("path", _PAIRS, ids=_name)
def test_its_links_lead_somewhere(path):
  links = re.findall(r"\]\(([^)#\s]+)", path.read_text())
  links = [link for link in links if not link.startswith("https://")]
  assert [link for link in links if not (_FOLDER / link).exists()] == []


def _too_long(notebook):
  lines = [len(cell.source.splitlines()) for cell in _code(notebook)]
  return [n for n in lines if n > _LONGEST]


@pytest.mark.parametrize("path", _PAIRS, ids=_name)
def test_no_cell_is_long_and_words_go_before_code(path):
  notebook = _read(path)
  assert _too_long(notebook) == []
  words = [c for c in notebook.cells if c.cell_type == "markdown"]
  assert 2 * len(words) >= len(_code(notebook))


# -- what they do --------------------------------------------------------------


@pytest.fixture
def run(environment_of):
  """Returns (notebook, folder): all cells are run, in a process of their own.

  It raises what a cell raises.
  """

  def run(notebook, folder):
    environment = dict(
      environment_of(1),
      PREFIXRL_TINY="1",
      PREFIXRL_FIELDS=json.dumps(_FIELDS),
      PYDEVD_DISABLE_FILE_VALIDATION="1",
      IPYTHONDIR=str(folder / ".ipython"),
    )
    client = nbclient.NotebookClient(
      notebook,
      timeout=600,
      kernel_name="python3",
      resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=environment)

  return run


def _pictures(notebook):
  """The pixels of what cells have drawn."""
  for cell in _code(notebook):
    for output in cell.outputs:
      if "image/png" in output.get("data", {}):
        png = base64.b64decode(output["data"]["image/png"])
        yield matplotlib.image.imread(io.BytesIO(png))


def _is_empty(picture):
  """Whether nothing has a colour; axes and letters are black, white or grey."""
  colours = picture[..., :3]
  return bool((np.ptp(colours, axis=-1) < 0.2).mean() > 0.999)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("notebooks")


@pytest.mark.slow
@pytest.mark.parametrize("name", _ORDER)
def test_it_runs_and_its_plots_show_something(name, folder, run):
  notebook = _read(_FOLDER / f"{name}.py")
  run(notebook, folder)
  # All that was started has been run, once, in order.
  counts = [cell.execution_count for cell in _code(notebook)]
  assert counts == list(range(1, len(counts) + 1))
  pictures = list(_pictures(notebook))
  assert len(pictures) >= 2
  assert not any(map(_is_empty, pictures))


# -- what these tests would notice ---------------------------------------------


def _notebook(*sources):
  cells = [nbformat.v4.new_code_cell(source) for source in sources]
  return nbformat.v4.new_notebook(cells=cells)


def test_what_is_wrong_is_noticed():
  assert _too_long(_notebook("1\n" * 20, "1\n" * 21)) == [21]
  script = "# %%\n1\n\n# %%\n2\n"
  assert _disagreements(script, _notebook("1", "2")) == []
  assert len(_disagreements(script, _notebook("1", "3"))) == 1
  assert len(_disagreements(script, _notebook("1"))) == 1


def test_an_empty_plot_and_an_error_are_noticed(tmp_path, run):
  plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2], {})\nplt.show()"
  notebook = _notebook(
    plot.format("[1, 2]"),
    plot.format("[None, None]"),
    "raise ValueError('nowhere')",
  )
  with pytest.raises(nbclient.exceptions.CellExecutionError, match="nowhere"):
    run(notebook, tmp_path)
  assert [_is_empty(p) for p in _pictures(notebook)] == [False, True]
