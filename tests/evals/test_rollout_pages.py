"""The viewer's data files: what they say, how large they are, no HTML."""

import dataclasses
import json
import re

import kept_rollouts
import pytest
from etils import epath
from kept_rollouts import ANY_PROMPT, HOSTILE, TOKENIZER

from prefixrl_jax.evals import page_files, rollout_pages
from prefixrl_jax.evals.page_files import to_script
from prefixrl_jax.evals.rollout_pages import write_viewer


def _write(folder, runs, problems, tokenizer=TOKENIZER):
  return write_viewer(epath.Path(folder), runs, {0: problems}, tokenizer)


def _read(file):
  """A data file's value; it is one call, with a name, a number and JSON."""
  text = file.read_bytes().decode("ascii")
  called = re.fullmatch(r'rolloutData\("(\w+)",(\d+),(.*)\);\n', text)
  assert f"{called[1]}_{called[2]}.js" == file.name
  return json.loads(called[3])


def _rows(folder, name):
  files = sorted(
    folder.glob(f"data/{name}_*.js"), key=lambda p: int(p.stem.split("_")[1])
  )
  return [row for file in files for row in _read(file)]


@pytest.fixture
def viewer(tmp_path):
  runs = [
    kept_rollouts.run(tmp_path / "a"),
    kept_rollouts.run(tmp_path / "b", arm="rl", seed=1, rescored=False),
  ]
  folder = tmp_path / "viewer"
  assert _write(folder, runs, kept_rollouts.problems(5)) == 2 * 4 * 6 * 2
  return folder


def test_says_when_each_problem_was_first_solved(viewer):
  outcomes = _rows(viewer, "outcomes")
  # Problem, run; groups and first solved without and with a prefix; evaluated.
  assert outcomes[:3] == [
    [0, 0, 4, 3, 4, 1, 0, 8, 6, 8],
    [1, 0, 4, None, 4, 1, 0, 8, 6, 8],
    [2, 0, 4, None, 4, None, 0, 8, 6, 8],
  ]
  assert [row[:2] for row in outcomes[3:]] == [[0, 1], [1, 1], [2, 1]]
  # Those that were trained on.
  assert [p[0] for p in _rows(viewer, "problems")] == ["p/0", "p/1", "p/2"]


def test_every_rollout_is_on_its_page(viewer):
  rows = _rows(viewer, "rollouts")
  index = _read(viewer / "data/index_0.js")
  assert index["runs"][1] == {
    "arm": "rl",
    "seed": 1,
    "steps": 4,
    "sampled": 48,
    "kept": 48,
  }
  assert index["files"] == {
    "problems": 1,
    "outcomes": 1,
    "page": 1,
    "rollouts": 1,
  }
  page = _read(viewer / "data/page_0.js")
  for place, row in enumerate(rows):
    run, problem, step, group, lane, prefix, fraction, reward = row[:8]
    pieces, logprobs, advantages, finals, omitted = page["rollouts"][str(place)]
    assert pieces == ["a", "b", "b", "b", ";"]
    assert page["prompts"][str(problem)] == "a" + "b" * problem
    given = page["prefixes"][f"{run}/{step}/{group}"]
    assert (given, prefix, fraction) == (
      ("a=1", 2, 0.4) if group % 2 else ("", 0, 0.0)
    )
    assert reward == (problem < 2 if group % 2 else step >= 3 and not problem)
    assert advantages == ([-1000, -500, 0, 500, 1000] if lane else None)
    assert (finals is None) == (run == 1) == (row[12] == 0)
    if finals:
      assert all(abs(f - x - 500) <= 1 for f, x in zip(finals, logprobs))
    assert row[10] == pytest.approx(sum(logprobs) / 5000, abs=1e-3)
    assert omitted == 0
  assert rows == sorted(rows, key=lambda r: (r[1], r[0], *r[2:5]))


def test_of_ten_thousand_rollouts_files_are_small(tmp_path):
  run = kept_rollouts.run(
    tmp_path / "a", steps=50, num_problems=5, lanes=20, tokens=12
  )
  folder = tmp_path / "viewer"
  assert _write(folder, [run], kept_rollouts.problems(5)) == 10_000
  files = [p for p in folder.rglob("*") if p.is_file()]
  assert max(p.stat().st_size for p in files) < 5_000_000
  sizes = [p.stat().st_size for p in folder.glob("data/page_*.js")]
  assert 2 <= len(sizes) <= 10
  assert len(_rows(folder, "rollouts")) == 10_000


def test_what_is_too_long_is_cut_and_said_to_be(tmp_path, monkeypatch):
  monkeypatch.setattr(rollout_pages, "_ROLLOUT_BYTES", 9_000)
  monkeypatch.setattr(page_files, "_TEXT_BYTES", 9_000)
  monkeypatch.setattr(page_files, "_PAGE_BYTES", 2_000)
  monkeypatch.setattr(page_files, "_FILE_BYTES", 1_000)
  run = kept_rollouts.run(tmp_path / "a", tokens=900)
  folder = tmp_path / "viewer"
  problems = [
    dataclasses.replace(p, prompt="€" * 4_000)
    for p in kept_rollouts.problems(3)
  ]
  _write(folder, [run], problems, ANY_PROMPT)
  pages = [_read(p) for p in folder.glob("data/page_*.js")]
  assert len(pages) == 48  # each is more than a page shall be
  for page in pages:
    [(pieces, logprobs, *_, omitted)] = page["rollouts"].values()
    assert len(pieces) == len(logprobs) == 450
    assert omitted == 450
    [prompt] = page["prompts"].values()
    assert 100 < len(prompt) < 1_000
    assert prompt.endswith("€…")
  assert len(list(folder.glob("data/rollouts_*.js"))) > 2
  assert len(_rows(folder, "rollouts")) == 48


def test_of_more_than_can_be_shown_a_part_is(tmp_path, monkeypatch):
  # A run has four of a problem's at each step.
  monkeypatch.setattr(rollout_pages, "_MOST_ROLLOUTS", 20)
  runs = [
    kept_rollouts.run(tmp_path / name, arm=name) for name in ("rl", "prefixrl")
  ]
  folder = tmp_path / "viewer"
  assert _write(folder, runs, kept_rollouts.problems(3)) == 16
  assert {row[0] for row in _rows(folder, "rollouts")} == {0, 1}
  index = _read(folder / "data/index_0.js")
  assert [run["kept"] for run in index["runs"]] == [48, 48]
  assert _rows(folder, "outcomes")[0][2:6] == [4, 3, 4, 1]  # of all


def test_a_prompt_with_a_hint_is_shown_as_it_was(tmp_path):
  run = kept_rollouts.run(tmp_path / "a", steps=1, num_problems=2)
  plain, other = kept_rollouts.problems(2)
  other = dataclasses.replace(other, prompt="a")  # it was ab
  _write(tmp_path / "viewer", [run], [plain, other])
  page = _read(tmp_path / "viewer/data/page_0.js")
  assert page["prompts"] == {"0": "a", "0/1/2": "ab", "0/1/3": "ab"}


def test_a_run_that_kept_nothing_is_shown_as_one(tmp_path):
  run = kept_rollouts.run(tmp_path / "a", steps=0)
  folder = tmp_path / "viewer"
  assert _write(folder, [run], kept_rollouts.problems(3)) == 0
  assert _rows(folder, "rollouts") == _rows(folder, "problems") == []
  assert _write(folder, [], kept_rollouts.problems(3)) == 0


def test_what_is_not_finite_is_null(tmp_path):
  run = kept_rollouts.run(tmp_path / "a", steps=1, num_problems=1)
  run = dataclasses.replace(
    run, rescored={k: x * float("nan") for k, x in run.rescored.items()}
  )
  _write(tmp_path / "viewer", [run], kept_rollouts.problems(1))
  page = _read(tmp_path / "viewer/data/page_0.js")
  assert {str(r[3]) for r in page["rollouts"].values()} == {"None"}


class _Hostile:
  """Each token is a text that would do harm."""

  def decode(self, many):
    return ["".join(HOSTILE for _ in ids) for ids in many]

  def encode_prompts(self, texts):
    return [[1]] * len(list(texts))


def test_a_text_is_never_html_nor_the_end_of_a_script(tmp_path):
  run = kept_rollouts.run(tmp_path / "a", steps=1, num_problems=1)
  folder = tmp_path / "viewer"
  problem = dataclasses.replace(
    kept_rollouts.problems(1)[0], prompt=HOSTILE, id="p/0"
  )
  _write(folder, [run], [problem], _Hostile())
  for file in folder.glob("data/*.js"):
    content = file.read_bytes()
    assert not re.search(rb"[^\x20-\x7e\n]|<", content)
    assert content.count(b"\n") == 1
  page = _read(folder / "data/page_0.js")
  assert page["prompts"]["0"] == HOSTILE
  assert page["prefixes"]["0/1/1"] == HOSTILE * 2
  assert page["rollouts"]["0"][0] == [HOSTILE] * 5


def test_a_script_is_the_same_value_again():
  value = [HOSTILE, 1, None, {"</script>": 0.5}]
  assert json.loads(to_script(value)) == value
  with pytest.raises(ValueError, match="not JSON compliant"):
    to_script(float("nan"))


def test_the_viewer_never_takes_a_text_for_html():
  folder = epath.resource_path("prefixrl_jax") / "evals/rollout_viewer"
  for file in folder.glob("*"):
    assert not re.search(
      r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\("
      r"|new Function|https?:|\bon\w+=\"",
      file.read_text(),
    ), file.name
