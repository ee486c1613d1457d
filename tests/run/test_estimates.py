"""What a program takes at the least, by hand from round numbers."""

import dataclasses

import pytest

from prefixrl_jax.distributed.chips import CHIPS
from prefixrl_jax.distributed.collectives import Traffic
from prefixrl_jax.run import estimates
from prefixrl_jax.run.by_hand import Work

_CHIP = dataclasses.replace(
  CHIPS["v5e"], flops=100.0, bandwidth=10.0, interconnect=5.0, network=1.0
)


def test_what_crosses_slices_takes_their_network():
  within = {
    "all-reduce": Traffic(bytes=30.0, overlapped=15.0, by_axes={"data": 30.0}),
    "all-gather": Traffic(bytes=5.0, by_axes={"fsdp": 5.0}),
  }
  # 30 / 5 and 5 / 5, of which half of the first is hidden.
  assert estimates.seconds_of(_CHIP, within) == (7.0, 3.0)
  between = Traffic(
    bytes=30.0,
    overlapped=15.0,
    by_axes={"slices": 10.0, "data": 20.0},
    overlapped_by_axes={"slices": 10.0, "data": 5.0},
  )
  # 10 / 1, 20 / 5 and 5 / 5, of which 10 / 1 and 5 / 5 are hidden.
  found = estimates.seconds_of(_CHIP, within | {"all-reduce": between})
  assert found == (15.0, 11.0)


def test_what_nothing_overlaps_is_waited_for():
  work = Work(flops=400.0, bytes=20.0, recomputed=100.0)
  found = estimates.roofline(_CHIP, work, waited=2.0, overlapped=3.0)
  assert found["seconds"] == {
    "compute": 4.0,
    "memory": 2.0,
    "interconnect": 5.0,
  }
  assert found["at_least"] == 4.0 + 2.0
  # 3 s of products are of use, in 6; and of reading 2 s.
  assert found["mfu"] == 0.5
  assert found["bandwidth"] == pytest.approx(1 / 3)
