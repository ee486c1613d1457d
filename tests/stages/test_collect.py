"""What the bar of a collection says is what the collection comes to."""

import types

import numpy as np
import pandas as pd
import pytest
from etils import epath

from prefixrl_jax.configs import demo
from prefixrl_jax.run.session import demo_model
from prefixrl_jax.stages import collect
from prefixrl_jax.storage import trace_store
from prefixrl_jax.storage.artifacts import Artifact
from prefixrl_jax.types import Problem, SamplingUsage, Trace

_PROBLEMS = [
  Problem(f"p{i}", "a43?", "a=0", "checksum", "train", i) for i in range(5)
]


class _Bar:
  """Stands for the bar, and keeps what it shows."""

  def __init__(self, name, *, total):
    self.total, self.shown = total, []

  def update(self, completed, **figures):
    self.shown.append((completed, figures["tried"]))

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass


class _Sampler:
  usage = SamplingUsage()

  def pop_usage(self):
    used, self.usage = self.usage, SamplingUsage()
    return used


def _attempts(sampler, verifier, tokenizer, problems, *, on_progress, **_):
  """One problem of two is solved; three completions are cancelled unjudged."""
  sampler.usage = SamplingUsage(
    completions=10, input_tokens=50, output_tokens=70
  )
  on_progress(1, 7)
  tokens = np.arange(3, dtype=np.int32)
  logprobs = np.full(3, -0.5, np.float32)
  return [
    Trace(problems[0].id, tokens, "a=0;", 1.0, "demo@0", i, 0, 5, logprobs)
    for i in range(2)
  ]


def _work(folder, artifact, said):
  config = demo.get_config("tiny=true")
  config.collect.problems_per_part = 2
  session = types.SimpleNamespace(
    config=config,
    model=demo_model(config.model),
    verifier=None,
    tokenizer=None,
    policy="demo@0",
    base_sampler=lambda settings: _Sampler(),
  )
  return types.SimpleNamespace(
    config=config,
    session=session,
    console=types.SimpleNamespace(print=said.append),
    begin=lambda artifact: artifact.begin(),
    data_to_make=lambda stage: [(artifact, 0)],
  )


@pytest.fixture(autouse=True)
def screened(monkeypatch):
  monkeypatch.setattr(
    collect.upstream, "hard_train", lambda work, seed: _PROBLEMS
  )


def _killed_in_the_second_part():
  """Attempts that are interrupted once, at their second call."""
  calls = []

  def attempts(*args, **kwargs):
    calls.append(args)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return _attempts(*args, **kwargs)

  return attempts


def test_the_bar_ends_at_what_the_last_line_says(tmp_path, monkeypatch):
  bars = []
  monkeypatch.setattr(
    collect.metrics,
    "Progress",
    lambda *a, **k: bars.append(_Bar(*a, **k)) or bars[-1],
  )
  monkeypatch.setattr(
    collect.rejection, "collect", _killed_in_the_second_part()
  )
  said = []
  artifact = Artifact(epath.Path(tmp_path) / "collect", {}, name="collect")
  work = _work(tmp_path, artifact, said)
  with pytest.raises(KeyboardInterrupt):
    collect.run(work)
  assert bars[0].shown == [(1, "7"), (1, "10")]
  # Resumed: what is on disk counts from the start.
  collect.run(work)
  assert bars[1].shown == [
    *((1, "10"), (2, "17"), (2, "20"), (3, "27"), (3, "30"))
  ]
  assert said == [
    "collect, seed 0: 3 of 5 hard problems solved with 30 completions"
  ]


def test_parts_without_log_probabilities_are_gone_on_with(
  tmp_path, monkeypatch
):
  """As versions left them that did not store any."""
  write = trace_store.write_traces

  def write_as_before(path, traces):
    write(path, traces)
    pd.read_parquet(path).drop(columns="logprobs").to_parquet(path)

  monkeypatch.setattr(
    collect.rejection, "collect", _killed_in_the_second_part()
  )
  artifact = Artifact(epath.Path(tmp_path) / "collect", {}, name="collect")
  work = _work(tmp_path, artifact, [])
  with monkeypatch.context() as before:
    before.setattr(trace_store, "write_traces", write_as_before)
    with pytest.raises(KeyboardInterrupt):
      collect.run(work)
  collect.run(work)
  traces = trace_store.read_traces(artifact.file("traces.parquet"))
  assert [(t.problem_id, t.logprobs is None) for t in traces] == [
    *(("p0", True), ("p0", True), ("p2", False), ("p2", False)),
    *(("p4", False), ("p4", False)),
  ]
  assert traces[2].logprobs.tolist() == [-0.5] * 3
