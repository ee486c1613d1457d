"""How fast an update is, next to torch, to separate sequences, to the roofline.

  python -m benchmarks.learner --unit=trees,nested --peer=transformers

Units, one AdamW step each:
  trees   4 trunks of 256 tokens with 8 lanes of 64 each
  nested  1 trunk of 512, forks at 128, 256, 384 and 512, 8 lanes of 64 at each

`separate` is our own code given one lane a trunk, as code without trees does.
One core: put `taskset -c 0` before it. The roofline is three forward passes
(four of the head, unless a chunk of logits is a whole row: the backward pass
computes them again) at the speed of a matrix product, with every trunk once and
no pair that is not visible.
"""

import functools
import os
from collections.abc import Sequence

import numpy as np
from absl import flags

from benchmarks import measuring, ours, shapes
from prefixrl_jax.learner.packing import Tree

_MODEL = flags.DEFINE_enum("model", "smol", list(shapes.MODELS), "Model.")
_PEER = flags.DEFINE_enum(
  "peer", "none", ["none", "transformers"], "What to compare with."
)
_SEPARATE = flags.DEFINE_bool(
  "separate", True, "Also run our code with one lane a trunk."
)
_ROW = flags.DEFINE_integer(
  "row_length", 0, "Tokens a row; 0: the longest tree."
)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed calls of each.", 3)
_JSON = measuring.define_json()

# (trunk length, forks, lanes a fork, completion length, trunks)
UNITS = {
  "trees": (256, (256,), 8, 64, 4),
  "nested": (512, (128, 256, 384, 512), 8, 64, 1),
}
_UNITS = measuring.define_choices("unit", UNITS, "What is timed")


def separated(trees: Sequence[Tree]) -> list[Tree]:
  """Returns a tree a lane; first tokens differ, so that none are merged."""
  parts = [
    (tree.trunk[: lane.fork], lane) for tree in trees for lane in tree.lanes
  ]
  return [
    Tree(np.concatenate([[i], trunk[1:]]).astype(np.int32), [lane], False)
    for i, (trunk, lane) in enumerate(parts)
  ]


def _transformers(model: str, trees: Sequence[Tree]):
  """Every lane a sequence of its own; a tree's fork is a batch."""
  import torch

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  config = shapes.MODELS[model]
  twin = shapes.transformers_twin(config, shapes.random_params(config)).train()
  optimizer = torch.optim.AdamW(twin.parameters(), 1e-6, (0.9, 0.95))
  batches = []
  for tree in trees:
    for fork in sorted({lane.fork for lane in tree.lanes}):
      lanes = [lane for lane in tree.lanes if lane.fork == fork]
      rows = [np.concatenate([tree.trunk[:fork], x.tokens]) for x in lanes]
      batches.append(
        (
          torch.from_numpy(np.stack(rows).astype(np.int64)),
          torch.from_numpy(np.stack([x.advantages for x in lanes])),
        )
      )
  count = sum(a.numel() for _, a in batches)

  def run():
    with torch.enable_grad():
      for tokens, advantages in batches:
        n = advantages.shape[1]
        scores = twin(tokens, logits_to_keep=n + 1).logits[:, :-1]
        scores = torch.log_softmax(scores.float(), -1)
        picked = scores.gather(-1, tokens[:, -n:, None])[..., 0]
        (-(advantages * picked).sum() / count).backward()
      torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
      optimizer.step()
      optimizer.zero_grad()

  return run


def _time(trees: Sequence[Tree]) -> dict[str, measuring.Timed]:
  """Times a unit by everyone."""
  update = functools.partial(ours.updating, _MODEL.value, row_length=_ROW.value)
  makers = {"prefixrl_jax": functools.partial(update, trees)}
  if _SEPARATE.value:
    makers["separate"] = functools.partial(update, separated(trees))
  if _PEER.value == "transformers":
    makers["transformers"] = functools.partial(
      _transformers, _MODEL.value, trees
    )
  return measuring.alternate(makers, _REPEATS.value)


def main() -> None:
  """Times every unit and prints the table."""
  config = shapes.MODELS[_MODEL.value]
  roofline = measuring.measure_roofline()
  timed = {}
  for name in _UNITS.value:
    timed[name] = _time(ours.make_trees(config, UNITS[name]))
    roofline = roofline.best(measuring.measure_roofline())
  rows = []
  for name, by_peer in timed.items():
    trees = ours.make_trees(config, UNITS[name])
    least = ours.least_seconds(config, trees, roofline, _ROW.value)
    for peer, times in by_peer.items():
      rows.append(
        {
          "unit": name,
          "by": peer,
          **times.row(),
          "share of roofline": least / times.median,
          "against ours": times.median / by_peer["prefixrl_jax"].median,
        }
      )
  measuring.show(
    f"{_MODEL.value}, {len(os.sched_getaffinity(0))} cores,"
    f" {roofline.flops_per_second / 1e9:.0f} GFLOP/s",
    rows,
    _JSON.value,
  )


if __name__ == "__main__":
  measuring.run(main)
