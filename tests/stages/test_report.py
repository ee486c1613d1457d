"""What the report says beside its figures."""

import json
import types

import kept_rollouts
import numpy as np
import pytest
from etils import epath
from rich.console import Console

from prefixrl_jax.configs import demo
from prefixrl_jax.stages import report
from prefixrl_jax.storage.files import File
from prefixrl_jax.storage.rescored import write_rescored
from prefixrl_jax.types import PrefixedProblem, Trace


class _Artifact(types.SimpleNamespace):
  """One whose files are what it was made with."""

  complete = False  # asked of rescoring, without which there is a report

  def file(self, name):
    return types.SimpleNamespace(read_json=lambda: self.files[name])


@pytest.fixture
def work(tmp_path, monkeypatch):
  """A workspace whose stages are complete; summaries may be changed."""
  config = demo.get_config("tiny=true,arms=rl")
  summaries = {
    "train": {"skipped_updates": 0},
    "evaluate": {"given_away": {}},
    "cut": {},
    "rescore": {},
  }
  artifact = lambda stage, *_: _Artifact(
    summary=summaries[stage],
    directory=epath.Path(tmp_path),
    files={"curve.json": [], "samples.json": [], "results.parquet": None},
  )
  monkeypatch.setattr(report, "read_results", lambda file: [])
  monkeypatch.setattr(report.rollout_pages, "write_viewer", lambda *_: 0)
  monkeypatch.setattr(
    report.page,
    "write_report",
    lambda *args, notes, **_: config.notes.update(notes) or {},
  )
  monkeypatch.setattr(report.page, "print_summary", lambda summary: None)
  with config.unlocked():
    config.notes = {}
  counts = {"train": (3, 4), "heldout": (1, 2)}
  traces = [Trace(f"p{i}", [], "", 1.0, "us", 0, 0, 1) for i in range(2)]
  for name, found in (
    ("hard", lambda work, seed, split: []),
    ("count_hard", lambda work, seed, split: counts[split]),
    ("traces", lambda work, seed: traces),
  ):
    monkeypatch.setattr(report.upstream, name, found)
  return types.SimpleNamespace(
    config=config,
    workdir=epath.Path(tmp_path),
    console=Console(quiet=True),
    data_seeds=(0,),
    data_seed=lambda seed: seed,
    problems=lambda seed: [],
    tokenizer=None,
    run_artifact=artifact,
    data_artifact=artifact,
    need=lambda artifact: artifact,
    evaluations=lambda arm, seed: [],
    sets=[],
    summaries=summaries,
  )


def test_nothing_that_did_not_happen_is_noted(work):
  report.run(work)
  assert dict(work.config.notes) == {
    "seed 0": "3 of 4 training problems hard, 2 of them solved by rejection"
    " sampling; 1 of 2 held-out ones hard"
  }


def test_skipped_updates_are_noted(work):
  work.summaries["train"]["skipped_updates"] = 5
  report.run(work)
  note = work.config.notes["rl seed 0"]
  assert note == "5 updates were not finite and left out"


def test_cuts_and_shares_that_held_the_answer_are_noted(work):
  work.summaries["cut"] = {"cut_earlier": 2, "left_out": 1}
  work.summaries["evaluate"] = {"given_away": {"0.5": 4}}
  report.run(work)
  note = work.config.notes["seed 0"]
  assert "2 were made earlier, 1 left out)" in note
  assert note.endswith(
    "; 4 left out at 50% of a trace, which contains the answer"
  )


def _prefixed(problem, fraction, author):
  return PrefixedProblem(problem, np.zeros(2, np.int32), fraction, author, 0)


@pytest.fixture
def trained(work, tmp_path, monkeypatch):
  """Returns what is read of a run of kept rollouts."""
  kept_rollouts.run(tmp_path, steps=2, num_problems=3)
  rows = [{"step": s, "flops_paper": 10.0 * s} for s in (1, 2)]
  (tmp_path / "metrics.jsonl").write_text("".join(map(_line, rows)))
  prefixed = [
    _prefixed("p/0", 0.4, "a"),
    _prefixed("p/1", 0.4, "a"),
    _prefixed("p/1", 0.4, "b"),  # by whom is not known
    _prefixed("p/2", 0.4, "b"),
    _prefixed("p/2", 0.8, "a"),  # has not been drawn
  ]
  monkeypatch.setattr(
    report.upstream.trace_store, "read_prefixed_problems", lambda _: prefixed
  )
  artifact = work.run_artifact("cut")
  artifact.file = lambda name: name
  work.data_artifact = lambda *_: artifact
  return lambda arm="prefixrl": report._training(
    work, epath.Path(tmp_path), arm, 0
  )


def _line(row):
  return json.dumps(row) + "\n"


def test_prefixed_groups_have_the_author_of_their_trace(trained):
  found = trained()
  # After a prefix all but the last problem are solved.
  assert sorted(found.prefixed) == [
    (1, "a", 1.0),
    (1, "b", 0.0),
    (2, "a", 1.0),
    (2, "b", 0.0),
  ]
  assert [row["flops_paper"] for row in found.rows] == [10, 20]
  assert found.prefix_gains == []
  assert trained("rl").prefixed == []


def test_what_a_prefix_changes_is_read_from_rescoring(trained, work, tmp_path):
  written = {
    "logprobs.parquet": {(1, 0, 0): [-5.0], (2, 1, 0): [-1.0, -2.0]},
    "without_prefix.parquet": {(2, 1, 0): [-1.5, -4.0]},
  }
  for name, logprobs in written.items():
    write_rescored(epath.Path(tmp_path) / name, logprobs)
  rescored = _Artifact(
    complete=True,
    summary={"without_prefix": 1},
    file=lambda name: File(epath.Path(tmp_path) / name),
  )
  work.run_artifact = lambda *_: rescored
  [gains] = trained().prefix_gains
  np.testing.assert_allclose(gains, [0.5, 2.0])
  rescored.summary = {"rollouts": 2}  # of an older version
  assert trained().prefix_gains == []
