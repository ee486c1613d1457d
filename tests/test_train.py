"""The training loop: resumed equals uninterrupted, and nothing recompiles."""

import dataclasses
import errno
import gzip
import json
import os
import signal

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pytest
import tiny_run
from etils import epath

from prefixrl_jax import train
from prefixrl_jax.configs import sections
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.embedded import checksum
from prefixrl_jax.learner import learner as learner_lib
from prefixrl_jax.learner.advantages import advantages
from prefixrl_jax.learner.packing import pack
from prefixrl_jax.models import parameters, transformer
from prefixrl_jax.models.attention import dense_attention
from prefixrl_jax.run import credit, experience, rollout
from prefixrl_jax.run.session import Session
from prefixrl_jax.storage.metrics import read_jsonl
from prefixrl_jax.storage.rollout_store import draw
from prefixrl_jax.train import trained_params
from prefixrl_jax.types import Preempted, UserError, Verdict


@dataclasses.dataclass
class _Run:
  session: Session
  directory: epath.Path
  skipped: int = 0


@pytest.fixture(scope="module")
def run():
  mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])

  def run(folder, arm, mesh=mesh, **fields):
    made = _Run(
      tiny_run.session(tiny_run.config(**fields), mesh), epath.Path(folder)
    )
    trained = train.train(
      made.session, tiny_run.data(), made.directory, arm=arm, seed=0
    )
    return dataclasses.replace(made, skipped=trained.skipped), trained.curve

  return run


def _policy(trainer):
  return trained_params(trainer.session, trainer.directory)


def _untimed(curve):
  """Without wall-clock, which is nobody's to repeat."""
  return [
    point
    | {
      "ledger": {
        purpose: {k: v for k, v in fields.items() if k != "seconds"}
        for purpose, fields in point["ledger"].items()
      }
    }
    for point in curve
  ]


def _learned(folder):
  """Metrics that depend on what was computed, not on how fast."""
  return [
    {
      k: v
      for k, v in row.items()
      if k.split("/")[0] in ("step", "train", "sft")
    }
    for row in read_jsonl(epath.Path(folder) / "metrics.jsonl")
  ]


def _kept(folder, table="rollouts"):
  """Training's rollouts, or its groups, as pandas reads them."""
  return pd.read_parquet(folder / table)


@pytest.fixture(scope="module")
def uninterrupted(run, tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole")
  trainer, curve = run(folder, "sft_rl")
  return folder, curve, parameters.weight_hash(_policy(trainer))


def test_every_step_is_written_and_nothing_compiles(uninterrupted):
  rows = read_jsonl(epath.Path(uninterrupted[0]) / "metrics.jsonl")
  assert [row["step"] for row in rows] == list(range(1, 9))  # 2 SFT, 6 RL
  assert {row["compilations"] for row in rows} == {0}
  assert "sft/loss" in rows[1]
  assert rows[2]["train/logprob_gap_max"] < 1e-5
  assert all(np.diff([row["flops_paper"] for row in rows]) > 0)


def test_what_was_learned_from_is_kept(uninterrupted):
  """Half of the groups, and what came of all; SFT's steps sample nothing."""
  folder, *_ = uninterrupted
  metrics = pd.DataFrame(read_jsonl(epath.Path(folder) / "metrics.jsonl"))
  groups = _kept(folder, "groups")
  assert groups.step.tolist() == [s for s in range(3, 9) for _ in range(4)]
  of_step = groups.groupby("step").mean_reward.mean()
  assert of_step.tolist() == metrics["train/no_prefix/reward"].dropna().tolist()
  kept = _kept(folder)
  prompts = {
    p.id: tiny_run.TOKENIZER.encode(p.prompt) for p in tiny_run.data().train
  }
  assert set(zip(kept.step, kept.problem_id)) == {
    (step, problem)
    for step, problem in zip(groups.step, groups.problem_id)
    if draw(0, step, problem) < 0.5
  }
  for _, group in kept.groupby(["step", "group"]):
    assert group.lane.tolist() == [0, 1, 2, 3]
    expected = group.reward - group.reward.mean()
    for row, advantage in zip(group.itertuples(), expected):
      assert len(row.tokens) == len(row.logprobs) == row.length > 0
      assert row.prompt.tolist() == prompts[row.problem_id]
      assert (row.logprobs < 0).all()
      np.testing.assert_allclose(row.advantages, [advantage] * row.length)
      assert row.text.endswith(checksum.STOP) != row.truncated


def test_profiled_steps_are_traced_by_name_and_nothing_changes(
  run, tmp_path, uninterrupted, capsys
):
  folder, curve, policy = uninterrupted
  assert not (folder / "profile").exists()
  trainer, again = run(tmp_path, "sft_rl", **{"profile.steps": (4, 5, 77)})
  assert _untimed(again) == _untimed(curve)
  assert _learned(tmp_path) == _learned(folder)
  assert parameters.weight_hash(_policy(trainer)) == policy
  said = capsys.readouterr().err
  assert "profile of sft_rl seed 0: there is none of steps 77" in said
  [found] = (tmp_path / "profile/plugins/profile").iterdir()
  assert found.name == "steps_4_5"
  assert str(found / "perfetto.json.gz") in said
  trace = json.loads(gzip.decompress((found / "perfetto.json.gz").read_bytes()))
  rows = {
    e["tid"]: e["args"]["name"]
    for e in trace["traceEvents"]
    if (e["pid"], e["name"]) == (0, "thread_name")
  }
  spans = {name: [] for name in rows.values()}
  for e in trace["traceEvents"]:
    if (e["ph"], e["pid"]) == ("X", 0):
      spans[rows[e["tid"]]].append(e)
  assert next(iter(spans)) == "step"
  for name in ("weight hand-over", "rollout", "prefill", "decode", "pick"):
    assert spans[name], name
  assert [e["name"] for e in spans["step"]] == ["step 4", "step 5"]
  # Each within its step, in order.
  stages = (spans[name] for name in ("step", "rollout", "judge", "update"))
  for step, rollout_, judge, update in zip(*stages, strict=True):
    assert step["ts"] <= rollout_["ts"] < judge["ts"] < update["ts"]
    assert update["ts"] + update["dur"] <= step["ts"] + step["dur"]
  modules = {e.get("args", {}).get("hlo_module") for e in trace["traceEvents"]}
  assert {"jit_decode", "jit_update", "jit_hand_over_a_layer"} <= modules
  [planes] = found.glob("*.xplane.pb")
  opened = jax.profiler.ProfileData.from_serialized_xspace(planes.read_bytes())
  annotated = {
    event.name
    for plane in opened.planes
    for line in plane.lines
    for event in line.events
  }
  assert {"step", "rollout", "judge", "update"} <= annotated


def test_curve_starts_at_rl_and_ends_at_the_end(uninterrupted):
  _, curve, _ = uninterrupted
  assert curve[0]["step"] == 2
  assert curve[-1]["step"] == 8
  assert set(curve[0]["accuracy"]) == {"train", "heldout", "heldout_hard"}


def _killed(run, folder, monkeypatch, killed_after, arm="sft_rl", **fields):
  """Runs until so many steps are done."""
  tiny_run.killed(monkeypatch, killed_after, lambda: run(folder, arm, **fields))


# Killed inside SFT, and inside RL after the checkpoint at step 4.
@pytest.mark.parametrize("killed_after", [1, 5])
def test_resumed_equals_uninterrupted(
  run, uninterrupted, tmp_path, monkeypatch, killed_after
):
  _killed(run, tmp_path, monkeypatch, killed_after)
  trainer, curve = run(tmp_path, "sft_rl")
  folder, expected, weights = uninterrupted
  assert parameters.weight_hash(_policy(trainer)) == weights
  assert _untimed(curve) == _untimed(expected)
  assert _learned(tmp_path) == _learned(folder)
  for table in ("rollouts", "groups"):
    pd.testing.assert_frame_equal(_kept(tmp_path, table), _kept(folder, table))


def test_a_schedule_and_a_loss_of_its_own_are_resumed(
  run, tmp_path, monkeypatch
):
  fields = {
    "arms.prefixrl_adaptive.loss": ml_collections.ConfigDict(
      sections.policy_gradient(importance="token", clip_low=0.2, clip_high=0.2)
    ),
    "arms.prefixrl_adaptive.schedule.low": 0.5,
    "arms.prefixrl_adaptive.schedule.high": 0.5,
    "train.max_steps": 4,
    "learner.kl_coefficient": 0.1,
  }

  def solved(verifier, tokenizer, problems, *_):
    """One of four completions is right, or wrong, as the problem has it."""
    return [
      Verdict(float((i % 4 == 0) == (p.index % 2 == 0)))
      for i, p in enumerate(problems)
    ]

  monkeypatch.setattr(rollout, "judge", solved)
  whole, curve = run(tmp_path / "whole", "prefixrl_adaptive", **fields)
  rows = _learned(tmp_path / "whole")
  assert {row["train/clipped"] for row in rows} == {0}  # on-policy
  assert rows[0]["train/kl"] == 0  # the first policy is the base
  assert rows[-1]["train/kl"] > 0
  _killed(
    run, tmp_path / "killed", monkeypatch, 3, "prefixrl_adaptive", **fields
  )
  again, resumed = run(tmp_path / "killed", "prefixrl_adaptive", **fields)
  assert _learned(tmp_path / "killed") == rows
  assert _untimed(resumed) == _untimed(curve)
  hashes = {parameters.weight_hash(_policy(r)) for r in (whole, again)}
  assert len(hashes) == 1
  host = whole.directory / "checkpoints/4/host/metadata"
  levels = json.loads(host.read_text())["schedule"]["levels"]
  assert sorted(set(levels.values())) == [0, 1]  # what is solved is shorter


def test_adapters_alone_are_trained_and_resumed(run, tmp_path, monkeypatch):
  fields = {"lora.rank": 2, "train.max_steps": 2, "train.checkpoint_every": 1}
  fields["learner.kl_coefficient"] = 0.1
  whole, curve = run(tmp_path / "whole", "sft_rl", **fields)
  rows = read_jsonl(epath.Path(tmp_path) / "whole/metrics.jsonl")
  assert {row["compilations"] for row in rows} == {0}
  assert rows[-1]["train/logprob_gap_max"] < 1e-5  # it samples what it learns
  policy = _policy(whole)
  trained = policy.pop("adapters")
  jax.tree.map(np.testing.assert_array_equal, policy, whole.session.base_params)
  assert all(np.any(adapter["b"]) for adapter in trained.values())
  _killed(run, tmp_path / "killed", monkeypatch, 3, **fields)
  again, resumed = run(tmp_path / "killed", "sft_rl", **fields)
  assert _untimed(resumed) == _untimed(curve)
  jax.tree.map(
    np.testing.assert_array_equal, _policy(again)["adapters"], trained
  )


def _mean_loss(model, params, trees):
  """Each completion as a sequence of its own, at temperature 1."""
  logprobs = []
  for tree in trees:
    [lane] = tree.lanes
    sequence = np.concatenate([tree.trunk, lane.tokens])
    n = len(sequence)
    mask = np.tri(n, dtype=bool)[None]
    hidden, _ = transformer.forward(
      model,
      params,
      sequence[None],
      np.arange(n)[None],
      lambda q, k, v, _, mask=mask: dense_attention(q, k, v, mask),
    )
    scores = transformer.logits(model, params, hidden)[0]
    places = np.arange(len(tree.trunk) - 1, n - 1)
    logprobs.append(jax.nn.log_softmax(scores)[places, lane.tokens])
  return -float(np.mean(np.concatenate(logprobs)))


def test_sft_is_maximum_likelihood_and_every_epoch_has_its_order(
  run, tmp_path, monkeypatch
):
  """Whatever the temperature of sampling."""
  batches = []

  def recorded(trees, layout, **how):
    batches.append(trees)
    return pack(trees, layout, **how)

  monkeypatch.setattr(learner_lib, "pack", recorded)
  fields = {
    "rollouts.temperature": 0.5,
    "sft.batch_size": 2,
    "train.max_steps": 1,
  }
  trainer, _ = run(tmp_path, "sft_rl", **fields)
  first, second, third, fourth, _ = [b for b in batches if b]
  name = lambda tree: (*tree.trunk.tolist(), *tree.lanes[0].tokens.tolist())
  epochs = [
    [name(t) for t in (*a, *b)] for a, b in ((first, second), (third, fourth))
  ]
  assert sorted(epochs[0]) == sorted(epochs[1])
  assert len(set(epochs[0])) == 4
  assert epochs[0] != epochs[1]
  session = trainer.session
  expected = _mean_loss(session.model, session.base_params, first)
  [row, *_] = read_jsonl(epath.Path(tmp_path) / "metrics.jsonl")
  assert row["sft/loss"] == pytest.approx(expected, rel=1e-5)


def test_discounted_rewards_are_what_is_compared(run, tmp_path, monkeypatch):
  """Two right answers, one longer: without a discount there is no signal."""
  weights = []

  def recorded(trees, layout, **how):
    weights.extend(
      (len(lane.tokens), float(a))
      for tree in trees
      for lane in tree.lanes
      for a in lane.advantages
    )
    return pack(trees, layout, **how)

  right = lambda *args: [Verdict(reward=1.0) for _ in args[-1]]
  monkeypatch.setattr(learner_lib, "pack", recorded)
  monkeypatch.setattr(rollout, "judge", right)
  run(tmp_path / "off", "rl", **{"train.max_steps": 1})
  assert weights
  assert not any(weight for _, weight in weights)
  weights.clear()
  run(tmp_path / "on", "rl", **{"train.max_steps": 1, "learner.discount": 0.9})
  lengths, weights = np.array(weights).T
  assert weights.any()
  # Each token of a completion has one weight, and the shorter the higher.
  assert np.corrcoef(lengths, weights)[0, 1] < -0.3


def _terminate(monkeypatch, name, when):
  """Lets SIGTERM come at the so-maniest call of a function of the loop."""
  module = {"curve_point": train, "rollout": experience}[name]
  function, calls = getattr(module, name), []

  def terminated(*args, **kwargs):
    calls.append(1)
    if len(calls) == when:
      os.kill(os.getpid(), signal.SIGTERM)
    return function(*args, **kwargs)

  monkeypatch.setattr(module, name, terminated)


@pytest.mark.parametrize(
  ("name", "when", "step"),
  [
    ("curve_point", 1, 2),  # between SFT and RL
    ("rollout", 3, 5),
    ("curve_point", 2, 8),  # the last one, when all steps are done
  ],
)
def test_sigterm_saves_and_resumes(
  run, uninterrupted, tmp_path, monkeypatch, name, when, step
):
  _, expected, weights = uninterrupted
  with monkeypatch.context() as patch:
    _terminate(patch, name, when)
    # Without the handler, the signal would end the tests.
    with pytest.raises(Preempted, match=f"saved at step {step}"):
      run(tmp_path, "sft_rl", **{"train.checkpoint_every": 100})
  trainer, curve = run(tmp_path, "sft_rl", **{"train.checkpoint_every": 100})
  assert parameters.weight_hash(_policy(trainer)) == weights
  assert _untimed(curve) == _untimed(expected)


def test_a_faulty_start_loses_nothing(
  run, uninterrupted, tmp_path, monkeypatch
):
  _killed(run, tmp_path, monkeypatch, 5)
  kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())

  def broken(*_, **__):
    raise OSError(errno.EIO, "Input/output error")

  with monkeypatch.context() as patch:
    patch.setattr(ocp.CheckpointManager, "restore", broken)
    with pytest.raises(UserError, match=r"step 4: OSError.* step 2: OSError"):
      run(tmp_path, "sft_rl")
  assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == kept
  trainer, curve = run(tmp_path, "sft_rl")
  _, expected, weights = uninterrupted
  assert parameters.weight_hash(_policy(trainer)) == weights
  assert _untimed(curve) == _untimed(expected)


def _poison(monkeypatch, when):
  """Makes the so-maniest RL step's advantages NaN."""
  calls = []

  def poisoned(rewards, estimator):
    calls.append(1)
    of_step = -(-len(calls) // 4)  # a call a group, four groups a step
    return advantages(rewards, estimator) * (
      float("nan") if of_step == when else 1.0
    )

  monkeypatch.setattr(credit, "advantages", poisoned)


def test_stops_at_the_first_update_that_is_not_finite(
  run, uninterrupted, tmp_path, monkeypatch
):
  with monkeypatch.context() as patch:
    _poison(patch, 4)
    with pytest.raises(UserError) as e:
      run(tmp_path, "sft_rl")
  for said in (
    "sft_rl seed 0 stops at step 6, the first that is not finite",
    "loss nan, gradient norm nan",
    "The state of step 5 was finite; checkpoint 4 is.",
    "config.learner.skip_nonfinite=True",
  ):
    assert said in str(e.value)
  kept = {p.name for p in (tmp_path / "checkpoints").iterdir()}
  assert kept == {"2", "4"}
  # What it failed on can be looked at.
  rollouts = _kept(tmp_path)
  [*_, last] = rollouts[rollouts.step == 6].advantages
  assert np.isnan(last).all()
  trainer, curve = run(tmp_path, "sft_rl")  # the fault is over
  _, expected, weights = uninterrupted
  assert parameters.weight_hash(_policy(trainer)) == weights
  assert _untimed(curve) == _untimed(expected)


def test_stops_where_the_parameters_leave_the_numbers(run, tmp_path):
  fields = {"arms.sft_rl.sft_epochs": 1, "sft.learning_rate": 1e35}
  with pytest.raises(UserError, match=r"step 1,.* norm of the parameters inf"):
    run(tmp_path, "sft_rl", **fields, **{"learner.skip_nonfinite": True})
  assert not list((tmp_path / "checkpoints").iterdir())


def test_skips_and_counts_what_is_not_finite(run, tmp_path, monkeypatch):
  fields = {
    "learner.skip_nonfinite": True,
    "learner.warmup_steps": 0,
    "learner.optimizer.weight_decay": 0.1,  # moves them without a reward
    "train.max_steps": 4,
    "train.checkpoint_every": 1,
    "train.checkpoints_kept": 9,
  }
  _poison(monkeypatch, 3)
  with monkeypatch.context() as patch:
    _terminate(patch, "rollout", 3)  # the count outlives a process
    with pytest.raises(Preempted):
      run(tmp_path, "sft_rl", **fields)
  trainer, _ = run(tmp_path, "sft_rl", **fields)
  assert trainer.skipped == 1
  rows = read_jsonl(epath.Path(tmp_path) / "metrics.jsonl")
  assert [row["skipped_updates"] for row in rows] == [0, 0, 0, 0, 1, 1]
  assert rows[4]["train/loss"] is None
  of = lambda step: parameters.weight_hash(
    trained_params(trainer.session, trainer.directory, step)
  )
  assert of(3) != of(4) == of(5) != of(6)


def test_prefixed_and_originals_are_told_apart(run, tmp_path):
  run(tmp_path, "prefixrl", **{"train.max_steps": 2})
  rows = _learned(tmp_path)
  assert len(rows) == 2
  for row in rows:
    for kind in ("prefixed", "no_prefix"):
      for name in ("reward", "accuracy", "any_correct", "all_correct"):
        assert 0 <= row[f"train/{kind}/{name}"] <= 1
      assert row[f"train/{kind}/entropy"] > 0
      for name in ("signal", "marker"):  # the task has one of its own
        assert 0 <= row[f"train/{kind}/{name}"] <= 1
      assert row[f"train/{kind}/length"] >= 1
    assert row["train/prefixed/length"] <= 24  # the prefix does not count


def test_same_run_on_eight_devices(run, tmp_path, eight_devices):
  fields = {
    "train.max_steps": 2,
    "train.prompts_per_step": 4,
    "learner.rows_per_microbatch": 4,
  }
  one, _ = run(tmp_path / "one", "prefixrl", **fields)
  eight, _ = run(tmp_path / "eight", "prefixrl", mesh=eight_devices, **fields)
  for a, b in zip(_learned(tmp_path / "one"), _learned(tmp_path / "eight")):
    assert a.keys() == b.keys()
    for name in a:
      assert a[name] == pytest.approx(b[name], abs=2e-5), name
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
    jax.device_get(_policy(one)),
    jax.device_get(_policy(eight)),
  )


def test_a_budget_that_collection_has_spent(run, tmp_path):
  with pytest.raises(UserError, match=r"config\.train\.flops = -1"):
    run(tmp_path, "rl", **{"train.flops": -1.0})


def test_every_step_has_problems_of_its_own(run, tmp_path, monkeypatch):
  """Two of four a step: two steps go through them all."""
  trunks = []

  def recorded(trees, layout, **how):
    trunks.append({tuple(tree.trunk.tolist()) for tree in trees})
    return pack(trees, layout, **how)

  monkeypatch.setattr(learner_lib, "pack", recorded)
  run(tmp_path, "rl", **{"train.max_steps": 2, "train.prompts_per_step": 2})
  first, second = [t for t in trunks if t]
  assert len(first | second) == 4


def test_rl_starts_with_an_optimizer_of_its_own(run, tmp_path, monkeypatch):
  """Groups without signal move nothing, whatever SFT was moving before."""
  right = lambda *args: [Verdict(reward=1.0) for _ in args[-1]]
  monkeypatch.setattr(rollout, "judge", right)
  fields = {
    "train.max_steps": 2,
    "train.checkpoint_every": 1,
    "train.checkpoints_kept": 9,
  }
  trained, _ = run(tmp_path, "sft_rl", **fields)
  of = lambda step: parameters.weight_hash(
    trained_params(trained.session, trained.directory, step)
  )
  assert of(1) != of(2) == of(3) == of(4)
