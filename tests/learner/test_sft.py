"""The order of traces, and what is taught."""

import numpy as np

from prefixrl_jax.learner import sft


def _order(seed, epoch):
  """An epoch of 40 examples in steps of 7: six, of which the last has 5."""
  examples = list(range(40))
  batches = [sft.batch(examples, 7, 6 * epoch + i, seed) for i in range(6)]
  assert [len(batch) for batch in batches] == [7] * 5 + [5]
  return [example for batch in batches for example in batch]


def test_every_epoch_and_seed_has_an_order_of_its_own():
  names = [(seed, epoch) for seed in range(2) for epoch in range(3)]
  orders = {name: _order(*name) for name in names}
  assert all(sorted(order) == list(range(40)) for order in orders.values())
  assert len(set(map(tuple, orders.values()))) == len(orders)
  assert all(_order(*name) == order for name, order in orders.items())
  assert sft.num_steps(40, 7, epochs=3) == 18


def test_an_example_is_weighed_with_one_on_its_completion_alone():
  tree = sft.example(np.arange(3), np.array([7, 8]))
  [lane] = tree.lanes
  assert tree.trunk.tolist() == [0, 1, 2]
  assert not tree.is_prefixed
  assert (lane.fork, lane.tokens.tolist()) == (3, [7, 8])
  assert lane.advantages.tolist() == [1.0, 1.0]
