"""The order of traces, and what is taught."""

import numpy as np

from prefixrl_jax.learner import sft


def test_every_epoch_and_seed_has_an_order_of_its_own():
  orders = {
    (seed, epoch): sft.epoch_order(40, seed=seed, epoch=epoch).tolist()
    for seed in range(2)
    for epoch in range(3)
  }
  assert all(sorted(order) == list(range(40)) for order in orders.values())
  assert len(set(map(tuple, orders.values()))) == len(orders)
  for (seed, epoch), order in orders.items():
    assert sft.epoch_order(40, seed=seed, epoch=epoch).tolist() == order


def test_an_example_is_weighed_with_one_on_its_completion_alone():
  tree = sft.example(np.arange(3), np.array([7, 8]))
  [lane] = tree.lanes
  assert tree.trunk.tolist() == [0, 1, 2]
  assert not tree.is_prefixed
  assert (lane.fork, lane.tokens.tolist()) == (3, [7, 8])
  assert lane.advantages.tolist() == [1.0, 1.0]
