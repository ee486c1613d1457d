"""What a whole run has on a device, beside what was planned."""

import collections

import jax
import tiny_run
from etils import epath

from prefixrl_jax import train
from prefixrl_jax.configs import demo
from prefixrl_jax.learner.learner import Learner
from prefixrl_jax.pipeline import Pipeline
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.run import memory_plan
from prefixrl_jax.stages import STAGES

# Of an update, while it runs: nothing that could be looked at from outside.
_WITHIN_A_PROGRAM = ("gradients", "activations", "logits")


class _Watch:
  """The most bytes that a device had, by phase of the run."""

  def __init__(self, monkeypatch):
    self._before = _buffers()
    self._kept = jax.live_arrays()  # so that no others get their addresses
    self.most = collections.Counter()
    self._is_curve = False
    self._phase = ""
    run, synchronise = Sampler.run, Sampler._synchronise
    point, step = train.curve_point, Learner.step

    def watched_run(sampler, *args, purpose, **kwargs):
      of = {"screening": "screen", "collection": "collect", "sampling": "train"}
      final = "curve" if self._is_curve else "evaluate"
      self._phase = of.get(purpose, final)
      return run(sampler, *args, purpose=purpose, **kwargs)

    def watched_synchronise(sampler, *args):
      self._measure()
      return synchronise(sampler, *args)

    def watched_step(learner, *args):
      stepped = step(learner, *args)
      self._phase = "train"
      self._measure()
      return stepped

    def watched_point(*args):
      self._is_curve = True
      try:
        return point(*args)
      finally:
        self._is_curve = False

    monkeypatch.setattr(Sampler, "run", watched_run)
    monkeypatch.setattr(Sampler, "_synchronise", watched_synchronise)
    monkeypatch.setattr(train, "curve_point", watched_point)
    monkeypatch.setattr(Learner, "step", watched_step)

  def _measure(self):
    now = sum(size for at, size in _buffers().items() if at not in self._before)
    self.most[self._phase] = max(self.most[self._phase], now)


def _buffers():
  """Returns the bytes of each buffer of the first device, by its address.

  Arrays may share one: a sharded array's parts are arrays too.
  """
  [first, *_] = jax.devices()
  return {
    shard.data.unsafe_buffer_pointer(): shard.data.nbytes
    for x in jax.live_arrays()
    if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    for shard in x.addressable_shards
    if shard.device == first
  }


def test_a_run_has_what_is_planned(tmp_path, monkeypatch):
  """Every stage in one process: nothing is left over from those before."""
  config = demo.get_config("tiny=true,arms=sft_rl")
  config.update_from_flattened_dict(
    {
      "train.max_steps": 2,
      "sft.batch_size": 4,
      "arms.sft_rl.sft_epochs": 1,
      "mesh.data": 1,
      "mesh.fsdp": -1,
      **tiny_run.FEW_PROGRAMS,
      # As long as they are: the plan is of what a config allows.
      "rollouts.max_prompt_length": 16,
    }
  )
  watch = _Watch(monkeypatch)
  pipeline = Pipeline(config, epath.Path(tmp_path), fresh=False)
  pipeline.run(STAGES)
  session = pipeline.work.session
  by_phase = memory_plan.phases(
    config, session.model, session.mesh, session.rows_per_microbatch
  )
  assert watch.most.keys() == by_phase.keys()
  share = {
    phase: watch.most[phase]
    / sum(v for k, v in parts.items() if k not in _WITHIN_A_PROGRAM)
    for phase, parts in by_phase.items()
  }
  # Prompts are shorter than they may be. What is fetched is not planned: up to
  # 46 bytes of a cached token, beside 3 layers x (key, value) x 32 x 4 bytes.
  most = 1 + 46 / (3 * 2 * 32 * 4)
  assert all(0.8 < x < most for x in share.values()), share
