"""How fast completions are sampled, next to transformers and the roofline.

  python -m benchmarks.sampler --unit=prompts,trunks,ragged --peer=transformers

Units, all at temperature 1 without a stop token:
  prompts  16 prompts of 64 tokens, 128 new tokens each
  trunks   4 trunks of 256 tokens, 8 lanes of 64 new tokens each
  ragged   64 prompts of 64 tokens whose completions have geometric lengths
           (mean 64, at most 256), 16 lanes at most

One core: put `taskset -c 0` before it. The roofline is a prefill and a decode
step a token at the speed of a matrix product or a memory read, whichever
takes longer, with full lanes and caches as long as they are needed.
"""

import functools
import os
from collections.abc import Callable

import numpy as np
from absl import flags

from benchmarks import measuring, ours, shapes
from benchmarks.ours import Unit
from prefixrl_jax.models import parameters
from prefixrl_jax.models.flops import attention_flops, flops_per_token

_MODEL = flags.DEFINE_enum("model", "smol", list(shapes.MODELS), "Model.")
_PEER = flags.DEFINE_enum(
  "peer", "none", ["none", "transformers"], "What to compare with."
)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed calls of each.", 3)
_JSON = measuring.define_json()


def _ragged_lengths() -> tuple[int, ...]:
  draws = np.random.default_rng(0).geometric(1 / 64, 64)
  return tuple(int(n) for n in np.minimum(draws, 256))


UNITS = {
  "prompts": Unit(16, 1, 64, (128,) * 16),
  "trunks": Unit(4, 8, 256, (64,) * 32),
  "ragged": Unit(16, 1, 64, _ragged_lengths()),
}
_UNITS = measuring.define_choices("unit", UNITS, "What is timed")


def _transformers(model: str, unit: Unit) -> Callable[[], object]:
  """Batches as `generate` takes them: each runs until its longest is done."""
  import torch

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  config = shapes.MODELS[model]
  twin = shapes.transformers_twin(config, shapes.random_params(config))
  prompts = torch.from_numpy(ours.trunks_of(config, unit).astype(np.int64))

  def run():
    for i in range(0, unit.num_trunks, unit.rows):
      some = slice(i * unit.lanes, (i + unit.rows) * unit.lanes)
      longest = max(unit.lengths[some])
      twin.generate(
        prompts[i : i + unit.rows],
        attention_mask=torch.ones_like(prompts[i : i + unit.rows]),
        do_sample=True,
        top_k=0,
        num_return_sequences=unit.lanes,
        min_new_tokens=longest,
        max_new_tokens=longest,
        pad_token_id=0,
      )

  return run


def least_seconds(config, unit: Unit, roofline: measuring.Roofline) -> float:
  """Returns how long the unit takes at the roofline.

  Every lane is full all the time, and a decode step reads the weights once,
  each trunk's cache once a row, and of a lane what it has so far.
  """
  c = config
  matmul = functools.partial(flops_per_token, config)
  prefill = unit.num_trunks * unit.trunk_length
  seconds = roofline.seconds(
    prefill
    * (matmul(head=False) + attention_flops(config, unit.trunk_length / 2))
  )
  tokens, lanes = sum(unit.lengths), unit.rows * unit.lanes
  mean = sum(n * n for n in unit.lengths) / 2 / tokens  # own keys a token sees
  flops = lanes * (
    matmul(head=True) + attention_flops(config, unit.trunk_length + mean)
  )
  per_key = 2 * c.num_layers * c.num_kv_heads * c.head_dim * 4
  weights = 4 * parameters.num_params(config)
  keys = unit.rows * (unit.trunk_length + unit.lanes * mean)
  return seconds + tokens / lanes * roofline.seconds(
    flops, weights + keys * per_key
  )


def main() -> None:
  """Times every unit and prints the table."""
  config = shapes.MODELS[_MODEL.value]
  makers = {"prefixrl_jax": ours.sampling}
  if _PEER.value == "transformers":
    makers["transformers"] = _transformers
  roofline = measuring.measure_roofline()
  timed = {}
  for name in _UNITS.value:
    timed[name] = measuring.alternate(
      {
        peer: functools.partial(make, _MODEL.value, UNITS[name])
        for peer, make in makers.items()
      },
      _REPEATS.value,
    )
    roofline = roofline.best(measuring.measure_roofline())
  rows = []
  for name, by_peer in timed.items():
    least = least_seconds(config, UNITS[name], roofline)
    for peer, times in by_peer.items():
      rows.append(
        {
          "unit": name,
          "by": peer,
          "tokens/s": sum(UNITS[name].lengths) / times.median,
          **times.row(),
          "share of roofline": least / times.median,
          "against ours": times.median / by_peer["prefixrl_jax"].median,
        }
      )
  measuring.show(
    f"{_MODEL.value}, {len(os.sched_getaffinity(0))} cores,"
    f" {roofline.flops_per_second / 1e9:.0f} GFLOP/s,"
    f" {roofline.bytes_per_second / 1e9:.0f} GB/s",
    rows,
    _JSON.value,
  )


if __name__ == "__main__":
  measuring.run(main)
