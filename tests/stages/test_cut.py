"""The cut stage: with the run's verifier, tokenizer and traces, counted."""

import io
import types
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from etils import epath
from rich.console import Console

from prefixrl_jax.rewards.countdown import CountdownVerifier
from prefixrl_jax.stages import cut
from prefixrl_jax.storage.artifacts import Artifact
from prefixrl_jax.types import Problem, Trace, UserError

_PUZZLE = {"numbers": [4, 6], "target": 24, "use_all": True}
# The answer stands in its first third; "\boxed{4*6}" is told from 11 on.
_EARLY = r"\boxed{4*6}, as the product of 4 and 6."
_LATE = r"4 and 6 have the product 24: \boxed{4*6}"


def _run(folder, texts, **prefixes):
  """Cuts; returns the prefixes' texts, the summary and what was printed."""
  encode = lambda text: np.array([ord(c) for c in text], np.int32)
  problems = [
    Problem(name, "?", "", "", "train", i, _PUZZLE)
    for i, name in enumerate(texts)
  ]
  artifact = Artifact(epath.Path(folder), {}, name="cut")
  shown = io.StringIO()
  work = types.SimpleNamespace(
    data_to_make=lambda stage: [(artifact, 0)],
    begin=lambda artifact: artifact.begin(),
    problems=lambda seed: problems,
    verifier=CountdownVerifier(),
    tokenizer=types.SimpleNamespace(
      decode=lambda many: ["".join(map(chr, ids)) for ids in many],
    ),
    config=types.SimpleNamespace(
      prefixes=dict(num_cuts=5, low=0.0, high=1.0) | prefixes
    ),
    console=Console(file=shown, width=200),
  )
  traces = [
    Trace(name, encode(text), text, 1.0, "made up", 0, 0, 1)
    for name, text in texts.items()
  ]
  with mock.patch.object(cut.upstream, "traces", return_value=traces):
    cut.run(work)
  rows = pd.read_parquet(folder / "prefixed.parquet")
  prefixes = ["".join(map(chr, ids)) for ids in rows["prefix"]]
  return prefixes, artifact.summary, shown.getvalue()


def test_no_prefix_holds_its_answer(tmp_path):
  prefixes, summary, shown = _run(tmp_path, {"early": _EARLY, "late": _LATE})
  assert len(prefixes) == summary["prefixed"] == 10
  assert not any("4*6}" in prefix for prefix in prefixes)
  assert summary["cut_earlier"] > 0
  assert (summary["left_out"], summary["too_short"]) == (0, 0)
  held = summary["cut_earlier"]
  assert (
    f"10 prefixes of 2 traces; {held} already contained the answer: {held} cut"
    " earlier, 0 left out"
  ) in shown


def test_what_is_left_out_is_counted(tmp_path):
  prefixes, summary, shown = _run(
    tmp_path, {"early": _EARLY, "late": _LATE}, low=0.5, high=0.9
  )
  assert all(prefix == _LATE[: len(prefix)] for prefix in prefixes)
  assert (len(prefixes), summary["left_out"]) == (5, 5)
  assert "5 already contained the answer: 0 cut earlier, 5 left out" in shown


def test_traces_of_answers_alone_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"contain the answer.*prefixes\.low"):
    _run(tmp_path, {"p": _EARLY}, low=0.5, high=0.9)
  assert not (tmp_path / "manifest.json").exists()
