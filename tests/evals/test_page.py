"""The report of plausible runs: complete, safe, reproducible."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import re

import numpy as np
import pytest
from PIL import Image
from reported import ARMS, SAMPLE, fake_run, write

from prefixrl_jax.evals.curves import CurvePoint, RunRecord
from prefixrl_jax.evals.figures import (
  figure_a,
  figure_b,
  figure_by_hardness,
  figure_c,
)
from prefixrl_jax.evals.names import arm_colours
from prefixrl_jax.evals.page import print_summary
from prefixrl_jax.evals.summary import summarize
from prefixrl_jax.evals.training_figures import figure_d, figure_e, figure_f
from prefixrl_jax.types import EvalResult

HOSTILE = "<script>alert('x')</script> & \"<b>\""


class Reader(html.parser.HTMLParser):
  """Collects tags and text, and checks that tags are closed in order."""

  def __init__(self):
    super().__init__()
    self.open, self.tags, self.text = [], [], ""

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    if tag not in ("meta", "br"):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open[-1:] not in (["style"], ["script"]):
      self.text += data


def read(path) -> Reader:
  reader = Reader()
  reader.feed(path.read_text("utf-8"))
  assert reader.open == []
  return reader


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  directory = tmp_path_factory.mktemp("report") / "made" / "here"
  runs = [
    fake_run(arm, seed, is_old=False) for arm in ARMS for seed in range(3)
  ]
  return directory, write(directory, runs=runs)


def test_report_is_complete(written):
  directory, summary = written
  assert sorted(path.name for path in directory.iterdir()) == [
    "figure_a.png",
    "figure_a.svg",
    "figure_b.png",
    "figure_b.svg",
    "figure_c.png",
    "figure_c.svg",
    "figure_d.png",
    "figure_d.svg",
    "figure_e.png",
    "figure_e.svg",
    "figure_f.png",
    "figure_f.svg",
    "index.html",
    "summary.json",
  ]
  assert json.loads((directory / "summary.json").read_text()) == summary


def check_figure(path):
  pixels = np.asarray(Image.open(path).convert("RGB"))
  assert min(pixels.shape[:2]) > 500
  assert pixels.std() > 10
  # Every arm that is drawn has pixels of its own colour.
  for arm in ("rl", "sft_rl", "prefixrl"):
    colour = arm_colours(ARMS)[arm].removeprefix("#")
    wanted = [int(colour[i : i + 2], 16) for i in (0, 2, 4)]
    assert np.any(np.all(pixels == wanted, axis=-1)), arm


@pytest.mark.parametrize("name", [f"figure_{x}" for x in "abcef"])
def test_figures_are_not_blank(written, name):
  check_figure(written[0] / f"{name}.png")


def test_hardness_is_drawn_from_curves_alone(tmp_path):
  summaries = {
    f"{blocks} blocks": summarize(
      [
        dataclasses.replace(fake_run(arm, seed), results=[])
        for arm in ("rl", "sft_rl", "prefixrl")
        for seed in range(2)
      ]
    )
    for blocks in (5, 6)
  }
  figure_by_hardness(summaries, tmp_path / "hardness")
  check_figure(tmp_path / "hardness.png")


def test_figures_are_reproducible(written, tmp_path):
  directory, summary = written
  figure_a(summary, tmp_path / "figure_a")
  figure_b(summary, tmp_path / "figure_b")
  figure_c(summary, tmp_path / "figure_c", (0.4, 0.8))
  figure_d(summary, tmp_path / "figure_d")
  figure_e(summary, tmp_path / "figure_e")
  figure_f(summary, tmp_path / "figure_f")
  for name in (f"figure_{x}.svg" for x in "abcdef"):
    assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()


def test_page_shows_the_numbers(written):
  directory, summary = written
  page = read(directory / "index.html")
  assert page.tags.count("figure") == page.tags.count("svg") == 6
  assert "35 of 80" in page.text
  text = " ".join(page.text.split())
  final = summary["arms"]["prefixrl"]["final"]["train"]["accuracy"]
  assert f"{100 * final['mean']:.1f} ± {100 * final['std']:.1f}" in text
  compared = summary["versus"]["sft_rl"]["train"]
  for comparison in (
    compared["final_ratio"],
    compared["speed_up"]["flops_paper"],
    compared["speed_up"]["flops_paper_with_screening"],
  ):
    low, high = comparison["interval"]
    numbers = f"{comparison['of_means']:.1f}x {low:.1f}x to {high:.1f}x"
    assert numbers in text
  assert "with the same random numbers" in text


def test_a_report_without_training_has_no_figures_of_it(tmp_path):
  for name in ("figure_e.png", "figure_e.svg"):
    (tmp_path / name).write_text("of an earlier report")
  write(tmp_path, runs=[fake_run(arm, 0) for arm in ("rl", "prefixrl")])
  left = {path.stem for path in tmp_path.glob("*.png")}
  assert left == {"figure_a", "figure_b", "figure_c"}
  page = read(tmp_path / "index.html")
  assert page.tags.count("figure") == page.tags.count("svg") == 3
  assert "Sources of prefixes" not in page.text


def test_one_source_of_prefixes_is_said_in_words(tmp_path):
  run = fake_run("prefixrl", 0, is_old=False)
  of_one = [p for p in run.training.prefixed if p[1] != "rule"]
  training = dataclasses.replace(run.training, prefixed=of_one)
  write(tmp_path, runs=[dataclasses.replace(run, training=training)])
  text = read(tmp_path / "index.html").text
  assert "from traces of one source, base@01234567." in text
  assert not (tmp_path / "figure_d.svg").exists()


def test_page_has_a_row_for_every_arm(written):
  directory, summary = written
  text = " ".join(read(directory / "index.html").text.split())
  rl = summary["arms"]["rl"]
  costs = "1.5e12 ± 0 (9e11 ± 0) 5e6 ± 0 150,000 ± 0 150 ± 0"
  assert f"{costs} RL held-out" in text
  gain = rl["final"]["train"]["gain"]
  lead = summary["versus"]["rl"]["train"]["final_difference"]
  for comparison in (gain, lead):
    low, high = (f"{100 * end:+.1f}" for end in comparison["interval"])
    points = f"{100 * comparison['of_means']:+.1f}"
    assert f"{points} {low} to {high}" in text
  saved = summary["versus"]["rl"]["train"]["interactions_saved"]["of_means"]
  assert f"{100 * saved:.0f} %" in text
  assert "No other arm ends above PrefixRL on any kind of problem." in text


def test_page_and_terminal_say_who_wins(tmp_path, capsys):
  swapped = {"rl": "prefixrl", "prefixrl": "rl"}
  runs = [fake_run(arm, seed) for arm in swapped for seed in range(3)]
  summary = write(
    tmp_path,
    runs=[dataclasses.replace(run, arm=swapped[run.arm]) for run in runs],
  )
  text = " ".join(read(tmp_path / "index.html").text.split())
  assert "RL ends above PrefixRL: on training problems by" in text
  assert "never reaches in training; on held-out problems by" in text
  print_summary(summary)
  assert "RL ends above PrefixRL: on training" in capsys.readouterr().out


def test_page_shows_every_seed(written):
  directory, summary = written
  text = " ".join(read(directory / "index.html").text.split())
  for arm in ("rl", "prefixrl"):
    of_arm = summary["arms"][arm]
    each = [
      f"{100 * run['final']['heldout']['accuracy']:.0f}"
      for run in of_arm["runs"].values()
    ]
    took_off = len(of_arm["final"]["heldout"]["took_off"])
    assert f"held-out {took_off} of 3 {' '.join(each)}" in text
  assert summary["arms"]["prefixrl"]["final"]["heldout"]["took_off"] == [
    0,
    1,
    2,
  ]
  assert summary["arms"]["rl"]["final"]["heldout"]["took_off"] == []


def test_page_has_samples_where_there_are_some(written):
  page = read(written[0] / "index.html")
  assert "Samples" in page.text


def test_page_needs_nothing_from_elsewhere(written):
  page = (written[0] / "index.html").read_text("utf-8")
  assert "://" not in page
  assert "src=" not in page
  links = set(re.findall(r' (?:xlink:)?href="([^#"][^"]*)"', page))
  assert links <= {"rollouts/index.html"}
  script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  assert f"default-src 'none'; script-src 'sha256-{digest}'" in page


def test_no_two_elements_of_the_page_have_one_id(written):
  page = (written[0] / "index.html").read_text("utf-8")
  ids = re.findall(r'\bid="([^"]*)"', page)
  assert len(ids) > 100  # six figures are in the page
  assert len(set(ids)) == len(ids)
  used = set(re.findall(r'(?:href="|url\()#([^")]*)', page))
  used |= set(re.findall(r'aria-(?:labelledby|describedby)="([^"]*)"', page))
  assert used <= set(ids)


def test_every_table_has_a_caption_and_headers_of_columns_and_rows(written):
  page = (written[0] / "index.html").read_text("utf-8")
  tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
  assert len(tables) == 4
  for table in tables:
    assert re.search(r"<caption[^>]*>[A-Z]", table)
    head, body = table.split("</thead>")
    columns = re.findall(r'<th scope="col"', head)
    rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    for row in rows:  # each whole, so that it can be moved
      assert '<th scope="row"' in row
      assert len(re.findall(r"<t[hd][ >]", row)) == len(columns)


def test_points_of_figures_say_their_values(written):
  directory, summary = written
  line = summary["arms"]["prefixrl"]["by_fraction"]["train"]
  mean, low, high = (f"{line[name][-1]:.3g}" for name in ("mean", "min", "max"))
  wanted = f"<title>PrefixRL at 0.9: {mean} ({low} to {high})</title>"
  for name in ("figure_c.svg", "index.html"):
    assert wanted in (directory / name).read_text("utf-8")
  svg = (directory / "figure_c.svg").read_text("utf-8")
  # The point is where the line's marker is.
  number = r"([\d.]+)"
  markers = re.findall(
    f'<use [^>]* x="{number}" y="{number}" style="fill: #d55e00; stroke', svg
  )
  [point] = re.findall(
    f'cx="{number}" cy="{number}"[^>]*>{re.escape(wanted)}', svg
  )
  assert [float(x) for x in point] == pytest.approx(
    [float(x) for x in markers[9]], abs=0.01
  )
  training = (directory / "figure_e.svg").read_text("utf-8")
  assert "<title>PrefixRL, without prefix at " in training
  assert "<title>PrefixRL, prefixed at " in training


def test_a_long_line_is_drawn_with_few_points(tmp_path):
  run = fake_run("prefixrl", 0)
  many = [
    dataclasses.replace(
      run.curve[-1],
      step=i,
      ledger={
        "update": {
          n: c * i / 5000 for n, c in run.curve[-1].ledger["update"].items()
        }
      },
      accuracy={"train": i / 5000},
    )
    for i in range(5001)
  ]
  summary = summarize([dataclasses.replace(run, curve=many)])
  figure_a(summary, tmp_path / "figure_a")
  svg = (tmp_path / "figure_a.svg").read_text("utf-8")
  assert len(svg) < 100_000
  assert "<title>PrefixRL at 0: 0</title>" in svg  # the first
  assert "<title>PrefixRL at 5.4e11: 1</title>" in svg  # the last


def test_the_page_stays_below_5_mb(tmp_path):
  """Each run has a sample before any has two; the rest is counted."""
  samples = [
    SAMPLE | {"arm": arm, "problem_id": f"p{i}", "completion": "<&>é" * 20_000}
    for arm in ("rl", "prefixrl")
    for i in range(60)
  ]
  write(
    tmp_path,
    runs=[fake_run(arm, 0) for arm in ("rl", "prefixrl")],
    samples=samples,
  )
  page = (tmp_path / "index.html").read_text("utf-8")
  assert 4_000_000 < len(page.encode()) < 5_000_000
  num = page.count("… (60,000 more characters)")
  assert f"no room for {120 - num} more" in page
  of_arms = [part.count("<pre") for part in page.split("</summary>")[1:]]
  assert sum(of_arms) == num > 10
  assert abs(of_arms[0] - of_arms[1]) <= 1


def test_sample_sets_the_prefix_apart(written):
  page = (written[0] / "index.html").read_text("utf-8")
  assert (
    '<span class="prompt">a43 b15?</span><mark>a4:1</mark>3=1 b=1;</pre>'
    in page
  )
  assert "✓ correct" in page
  assert "✗ wrong" not in page


def test_hostile_text_is_escaped(tmp_path):
  sample = dict.fromkeys(
    ("problem_id", "prompt", "prefix", "completion"), HOSTILE
  )
  sample = SAMPLE | sample | {"reward": 0.0}
  runs = [fake_run("prefixrl", 0)]
  runs.append(
    RunRecord(HOSTILE, 0, runs[0].curve, runs[0].results, uses_traces=False)
  )
  write(tmp_path, runs=runs, samples=[sample], notes={HOSTILE: HOSTILE})
  page = read(tmp_path / "index.html")
  assert page.tags.count("script") == 1  # the page's own
  assert page.text.count(HOSTILE) >= 6
  assert "✗ wrong" in page.text


def test_report_of_the_base_model_alone(tmp_path):
  results = [EvalResult("p", "train", 0.0, 4, 0)]
  runs = [RunRecord("base", 0, [], results, False)]
  summary = write(tmp_path, runs=runs, samples=[])
  print_summary(summary)
  page = read(tmp_path / "index.html")
  assert "gains" not in page.text
  assert "Samples" not in page.text


def test_never_and_undefined_are_spelled_out(tmp_path, capsys):
  method = fake_run("prefixrl", 0)
  stuck = [CurvePoint(p.step, p.ledger, {"train": 0.0}) for p in method.curve]
  nothing = [EvalResult("p", "train", 0.0, 32, 0)]
  runs = [
    RunRecord("rl", 0, stuck, nothing, False),
    fake_run("sft_rl", 0),
    RunRecord("prefixrl", 0, stuck, nothing, True),
  ]
  summary = write(tmp_path, runs=runs)
  assert summary["versus"]["rl"]["train"]["speed_up"]["tokens"] == {
    "of_means": None,
    "interval": None,
    "undefined": None,
    "seeds": {"0": None},
    "spread": {"mean": None, "min": None, "max": None, "std": None, "num": 0},
  }
  print_summary(summary)
  gains = capsys.readouterr().out.partition("against")[2].splitlines()
  rows = {tuple(row.split()) for row in gains}
  assert ("SFT", "+", "RL", "training", "0x", "never", "never") in rows
  assert ("RL", "training", "-", "-", "-") in rows
  page = " ".join(read(tmp_path / "index.html").text.split())
  assert "0x never never" in page


def test_terminal_table_fits_80_columns(written, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "80")
  print_summary(written[1])
  out = capsys.readouterr().out
  assert "PrefixRL" in out
  assert "held-out" in out
  assert max(map(len, out.splitlines())) <= 80
  final = written[1]["arms"]["rl"]["final"]["train"]["accuracy"]
  assert f"{100 * final['mean']:.1f} ± {100 * final['std']:.1f}" in out
  low, high = written[1]["versus"]["rl"]["train"]["final_ratio"]["interval"]
  assert f"{low:.1f}x to {high:.1f}x" in out
  each = [
    f"{100 * run['final']['train']['accuracy']:.0f}"
    for run in written[1]["arms"]["prefixrl"]["runs"].values()
  ]
  rows = [" ".join(line.split()) for line in out.splitlines()]
  assert f"PrefixRL 3 of 3 {' '.join(each)}" in rows


def test_colours_are_fixed_per_arm():
  alone, together = arm_colours(["rl"]), arm_colours(["mine", "rl", "yours"])
  assert alone["rl"] == together["rl"]
  assert together["mine"] != together["yours"]
  assert len(set(together.values())) == len(together)


def test_figures_of_a_single_point(tmp_path):
  method = fake_run("prefixrl", 0)
  short = RunRecord("prefixrl", 0, method.curve[:1], method.results, True)
  summary = summarize([short])
  figure_a(summary, tmp_path / "figure_a")
  assert (tmp_path / "figure_a.png").stat().st_size > 0


@pytest.mark.filterwarnings("error::UserWarning")
def test_figure_a_of_a_run_that_ends_before_others_have_their_traces(tmp_path):
  """The line where collection ends is in the panel, and not far outside."""
  whole = fake_run("rl", 0)
  short = [
    CurvePoint(
      point.step,
      {
        purpose: {unit: number / 1e4 for unit, number in spent.items()}
        for purpose, spent in point.ledger.items()
      },
      point.accuracy,
    )
    for point in whole.curve
  ]
  runs = [
    dataclasses.replace(whole, curve=short),
    # Of other costs: they have no mean.
    *(
      dataclasses.replace(run, curve=run.curve[:1])
      for run in (fake_run("prefixrl", 0), fake_run("prefixrl", 1))
    ),
  ]
  figure_a(summarize(runs), tmp_path / "figure_a")
  assert "collecting traces" in (tmp_path / "figure_a.svg").read_text("utf-8")


def test_figure_a_of_runs_without_heldout_problems(tmp_path):
  """Only the panels that there is something for."""
  runs = [
    dataclasses.replace(
      run,
      curve=[
        dataclasses.replace(p, accuracy={"train": p.accuracy["train"]})
        for p in run.curve
      ],
      results=[r for r in run.results if r.split == "train"],
    )
    for run in (fake_run(arm, 0) for arm in ("base", "prefixrl"))
  ]
  figure_a(summarize(runs), tmp_path / "a")
  with Image.open(tmp_path / "a.png") as narrow:
    assert narrow.width == 5 * 150


def test_long_names_are_wrapped_in_the_terminal(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "80")
  names = {"prefixrl": "prefixrl", "sft_rl": "rl_clip_higher"}
  runs = [fake_run(arm, seed) for arm in names for seed in range(2)]
  runs = [dataclasses.replace(run, arm=names[run.arm]) for run in runs]
  for run in runs:
    run.results.extend(
      [EvalResult("x", "heldout", 0.0, 4, 2 * (run.arm == "prefixrl"))]
    )
  runs = [dataclasses.replace(run, hard=frozenset({"x"})) for run in runs]
  print_summary(write(tmp_path, runs=runs))
  out = capsys.readouterr().out
  assert "…" not in out
  assert "clip-higher" in out
