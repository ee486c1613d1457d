"""Accuracy by kind of problem, from a workdir made by hand."""

import json

import pytest
from etils import epath

from prefixrl_jax.configs import skills
from prefixrl_jax.embedded.skills import RULES
from prefixrl_jax.evals import kinds
from prefixrl_jax.storage.artifacts import Artifact
from prefixrl_jax.storage.results import write_results
from prefixrl_jax.types import EvalResult, UserError


def _result(index, correct, *, split="heldout", fraction=0.0):
  return EvalResult(f"skills/0/{split}/{index}", split, fraction, 4, correct)


@pytest.fixture
def workdir(tmp_path):
  config = skills.get_config("tiny")
  config.problems.update(num_train=1, num_easy=0, num_heldout=24)
  (tmp_path / "run_config.json").write_text(config.to_json())
  folder = epath.Path(tmp_path) / "evaluate/rl/seed_0"
  done = Artifact(folder, {}, name="evaluate/rl/seed_0")
  done.begin()
  # Held-out problems follow the one trained on: two of each of twelve kinds.
  results = [_result(1 + i, {0: 3, 12: 2, 1: 4}.get(i, 0)) for i in range(24)]
  results += [_result(1, 0, fraction=0.5), _result(0, 4, split="train")]
  write_results(folder / "results.parquet", results)
  done.finish({}, ["results.parquet"])
  (tmp_path / "evaluate/rl/seed_1").mkdir()  # not finished
  return epath.Path(tmp_path)


def test_a_kind_s_accuracy_is_the_mean_over_its_problems(workdir):
  (row,) = kinds.of_runs(workdir, "kind")
  # A: (3/4 + 2/4) / 2; B: (4/4 + 0) / 2.
  assert (row["A"], row["B"], row["C"]) == (62, 50, 0)
  assert (row["arm"], row["seed"]) == ("rl", 0)
  assert (row["took off"], row["of"]) == (2, len(RULES))
  json.dumps(row)


def test_problems_without_the_field_have_no_kinds(workdir):
  with pytest.raises(UserError, match=r"--field=level: problems have no such"):
    list(kinds.of_runs(workdir, "level"))
