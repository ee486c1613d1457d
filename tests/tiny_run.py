"""What a tiny run is made of: a config, traces that guess right, a session."""

import functools

import jax
import ml_collections
import numpy as np
import pytest

from prefixrl_jax.configs import demo
from prefixrl_jax.embedded import checksum
from prefixrl_jax.embedded.checksum import ChecksumVerifier
from prefixrl_jax.learner.learner import Learner
from prefixrl_jax.models import adapters, parameters, transformer
from prefixrl_jax.prefixes.cuts import cut
from prefixrl_jax.run import memory_plan
from prefixrl_jax.run.session import Session
from prefixrl_jax.text.tokenizer import SymbolTokenizer
from prefixrl_jax.types import Trace, TrainData

TOKENIZER = SymbolTokenizer(
  checksum.SYMBOLS, pad=checksum.PAD, stop=checksum.STOP
)

# Of the demo: one layer is compiled, and one sampler for all stages. Files
# whose runs have these, and a mesh in common, find each other's programs.
FEW_PROGRAMS = {
  "model.scan_unroll": 1,
  "screen.lanes": 8,
  "evals.rows": 4,
  "evals.lanes": 8,
}


def config(**fields) -> ml_collections.ConfigDict:
  config = demo.get_config("tiny=true")
  config.update_from_flattened_dict(
    {
      "model.num_layers": 1,
      "model.width": 16,
      "model.mlp_width": 32,
      "model.num_heads": 2,
      "model.num_kv_heads": 2,
      "model.head_dim": 8,
      "train.flops": 1e15,
      "train.max_steps": 6,
      "train.checkpoint_every": 2,
      "train.rollouts_kept.share": 0.5,
      "evals.curve_points": 4,
      "arms.sft_rl.sft_epochs": 2,
      "sft.batch_size": 4,
      "rollouts.max_completion_length": 24,
      **fields,
    }
  )
  return config


def data(seed=0) -> TrainData:
  """Traces that guess right: what rejection sampling would find."""
  train = checksum.make_problems(4, 3, seed=seed, split="train", start=0)
  traces = []
  for problem in train:
    text = problem.answer.replace(" ", "") + checksum.STOP
    tokens = np.array(TOKENIZER.encode(text), np.int32)
    traces.append(
      Trace(
        problem_id=problem.id,
        prompt_length=len(TOKENIZER.encode(problem.prompt)),
        text=text,
        tokens=tokens,
        reward=1.0,
        policy="made up",
        attempt=0,
        seed=seed,
      )
    )
  heldout = checksum.make_problems(2, 3, seed=seed, split="heldout", start=4)
  return TrainData(
    train=train,
    heldout=heldout,
    hard_heldout=frozenset({heldout[0].id}),
    traces=traces,
    prefixed=cut(
      traces,
      {p.id: p.index for p in train},
      num_cuts=2,
      low=0.4,
      high=0.8,
      seed=seed,
      hold_answer=lambda ids, _: [False] * len(ids),
    ).prefixed,
    ledger={},
    easy=checksum.make_problems(3, 1, seed=seed, split="train", start=6),
    pass_rates={p.id: 0.0 for p in train},
  )


def session(config, mesh) -> Session:
  names = set(transformer.TransformerConfig.__dataclass_fields__)
  model = transformer.TransformerConfig(
    **{k: v for k, v in config.model.items() if k in names}
  )
  model = adapters.with_lora(config.lora, model)
  model, rows_per_microbatch = memory_plan.fit(
    config, model, mesh, lambda _: None
  )
  params = parameters.put_params(model, mesh, _drawn(model))
  return Session(
    config=config,
    mesh=mesh,
    model=model,
    rows_per_microbatch=rows_per_microbatch,
    base_params=params,
    policy="random",
    tokenizer=TOKENIZER,
    verifier=ChecksumVerifier(),
  )


@functools.cache
def _drawn(model):
  return jax.device_get(parameters.init(model, jax.random.key(1)))


class _KilledError(Exception):
  pass


def killed(monkeypatch, killed_after, run):
  """Calls run(), which does not survive after so many updates."""
  step, steps = Learner.step, 0

  def dying(self, *args):
    nonlocal steps
    if steps == killed_after:
      raise _KilledError
    steps += 1
    return step(self, *args)

  with monkeypatch.context() as patch:
    patch.setattr(Learner, "step", dying)
    with pytest.raises(_KilledError):
      run()
