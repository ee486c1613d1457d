"""The ledger against counts done by hand, and by XLA."""

import dataclasses

import jax
import numpy as np
import pytest
from optimizers import plain_adamw

from benchmarks import ours
from prefixrl_jax.distributed import sharding
from prefixrl_jax.learner import update
from prefixrl_jax.learner.logprobs import num_logit_tokens
from prefixrl_jax.learner.losses import make_loss
from prefixrl_jax.learner.packing import Layout, pack
from prefixrl_jax.ledger import PURPOSES, Ledger
from prefixrl_jax.models import (
  adapters,
  parameters,
  transformer,
  tree_attention,
)
from prefixrl_jax.models.attention import trunk_places
from prefixrl_jax.models.decoder_config import Lora
from prefixrl_jax.models.flops import (
  attention_flops,
  flops_per_token,
  update_flops,
)
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.types import SamplingUsage, ScoringUsage, UpdateUsage

# d = 8, 2 heads of 4, 1 kv head, mlp 16, vocabulary 10, 3 layers.
_MODEL = transformer.TransformerConfig(
  num_layers=3,
  width=8,
  num_heads=2,
  num_kv_heads=1,
  head_dim=4,
  mlp_width=16,
  vocab_size=10,
)
# Per layer: q 8x8, k and v 8x4, o 8x8, gate, up and down 8x16, 2 norms of 8.
_LAYER = 64 + 2 * 32 + 64 + 3 * 128
_PARAMS = 3 * (_LAYER + 16) + 8 + 2 * 80
_TOKEN = 2 * 3 * _LAYER
_HEAD = 2 * 80


def _attention(keys):
  return 3 * 2 * 2 * 8 * keys  # layers x (scores, values) x 2 x width x keys


def test_number_of_parameters():
  assert parameters.num_params(_MODEL) == _PARAMS


def test_sampling_by_hand():
  ledger = Ledger(_MODEL)
  ledger.add_sampling(
    "sampling",
    SamplingUsage(
      completions=2,
      input_tokens=10,
      output_tokens=7,
      prefill_tokens=6,
      decode_tokens=12,
      pairs=156,
      seconds=0.5,
    ),
  )
  entry = ledger.to_dict()["sampling"]
  # Of the last layer, a trunk has keys and values alone.
  trunk = _TOKEN - 2 * (_LAYER - 2 * 32)
  executed = 6 * trunk + 12 * (_TOKEN + _HEAD) + _attention(156)
  assert entry == {
    "flops_paper": 2 * _PARAMS * 17,
    "flops_executed": executed,
    "tokens": 17,
    "completions": 2,
    "seconds": 0.5,
  }


def _executed(model, work, *, has_reference=False, keeps_logits=False):
  ledger = Ledger(model)
  ledger.add_update(
    "update",
    UpdateUsage(
      tokens=17,
      work=work,
      tokens_per_microbatch=18,
      has_reference=has_reference,
      keeps_logits=keeps_logits,
      seconds=1.0,
    ),
  )
  entry = ledger.to_dict()["update"]
  assert entry["flops_paper"] == (6 + 2 * has_reference) * _PARAMS * 17
  return entry["flops_executed"]


_WORK = {
  "num_microbatches": 2,
  "pairs": 100,
  "pairs_back": 250,
  "logit_tokens": 24,
}


def test_update_by_hand():
  forward = 36 * _TOKEN
  plain = 3 * forward + _attention(100 + 250) + 4 * 24 * _HEAD
  assert _executed(_MODEL, _WORK) == plain
  # The reference runs forward once.
  assert _executed(_MODEL, _WORK, has_reference=True) == (
    plain + forward + _attention(100) + 24 * _HEAD
  )
  # One chunk: nothing has to be computed again.
  assert _executed(_MODEL, _WORK, keeps_logits=True) == plain - 24 * _HEAD
  # Layers run again, but for what is only added to the residual.
  remat = dataclasses.replace(_MODEL, remat="full")
  again = forward - 36 * 3 * 2 * 8 * 16 + _attention(100)
  assert _executed(remat, _WORK) == plain + again


def test_a_critic_s_own_trunk_is_charged_like_the_policy_s():
  ledger = Ledger(_MODEL)
  usage = UpdateUsage(
    tokens=17,
    work=_WORK,
    tokens_per_microbatch=18,
    has_reference=True,
    keeps_logits=False,
    seconds=1.0,
    has_critic_trunk=True,
  )
  ledger.add_update("update", usage)
  entry = ledger.to_dict()["update"]
  assert entry["flops_paper"] == (6 + 6 + 2) * _PARAMS * 17
  trunk = 3 * 36 * _TOKEN + _attention(100 + 250)
  reference = 36 * _TOKEN + _attention(100) + 24 * _HEAD
  assert entry["flops_executed"] == 2 * trunk + reference + 4 * 24 * _HEAD


def test_scoring_by_hand():
  """Two models run forward, one of them with logits."""
  ledger = Ledger(_MODEL)
  ledger.add_scoring(
    ScoringUsage(
      tokens=17, work=_WORK, tokens_per_microbatch=18, passes=2, seconds=1.0
    )
  )
  entry = ledger.to_dict()["scoring"]
  assert entry["flops_paper"] == 2 * 2 * _PARAMS * 17
  forward = 36 * _TOKEN + _attention(100)
  assert entry["flops_executed"] == 2 * forward + 24 * _HEAD
  assert ledger.training_flops() == entry["flops_paper"]


def test_update_of_adapters_by_hand():
  # Rank 2 beside queries (8 -> 2 x 4) and gates (8 -> 16) of three layers.
  lora = Lora(rank=2, alpha=4.0, targets=("query", "gate"))
  adapted = 3 * 2 * ((8 + 8) + (8 + 16))
  # Frozen weights have one product in the backward pass, adapters two.
  assert _executed(lora.of(_MODEL), _WORK) == (
    2 * 36 * _TOKEN
    + _attention(100 + 250)
    + 3 * 24 * _HEAD
    + 3 * 36 * 2 * adapted
  )


def test_training_leaves_screening_and_evaluation_out():
  ledger = Ledger(_MODEL)
  ledger.add_entries(
    {
      purpose: {
        "flops_paper": 10.0**i,
        "flops_executed": 2 * 10.0**i,
        "tokens": i,
        "completions": 0,
        "seconds": 0.0,
      }
      for i, purpose in enumerate(PURPOSES)
    }
  )
  # screening, collection, sft, sampling, scoring, update, evaluation
  assert ledger.training_flops() == 111110
  assert ledger.training_flops("flops_executed") == 222220


def test_comes_back_from_its_dict():
  ledger = Ledger(_MODEL)
  ledger.add_sampling("collection", SamplingUsage(1, 2, 3, 4, 5, 6.0, 7.0))
  other = Ledger(_MODEL)
  other.set_entries(ledger.to_dict())
  assert other.to_dict() == ledger.to_dict()


# -- what XLA counts ---------------------------------------------------------

# Large enough for products to be nearly all there is.
_WIDE = transformer.TransformerConfig(
  num_layers=2,
  width=96,
  num_heads=4,
  num_kv_heads=2,
  head_dim=32,
  mlp_width=224,
  vocab_size=640,
  scan_unroll=2,
)
_LORA = Lora(rank=8, alpha=8.0, targets=("query", "up"))


def _flops_by_xla(model, mesh, layout, chunk_length, kl):
  optimizer = plain_adamw()
  abstract = update.abstract_state(
    adapters.abstract_trained(model, mesh), optimizer
  )
  base = parameters.abstract_params(model, mesh)
  with jax.set_mesh(mesh):
    program = update.make_update(
      model,
      optimizer,
      abstract,
      make_loss("policy_gradient", kl_coefficient=kl),
      temperature=1.0,
      chunk_length=chunk_length,
    )
    batch = sharding.put_rows(mesh, pack([], layout), axis=1)
    lowered = program.lower(abstract, batch, base if kl or model.lora else None)
  return lowered.compile().cost_analysis()["flops"]


@pytest.mark.parametrize(
  ("changes", "chunk_length", "kl"),
  [
    ({}, 64, 0.1),
    ({}, 16, 0.0),
    ({"remat": "full"}, 48, 0.0),
    ({"remat": "full", "num_layers": 1, "scan_unroll": 1}, 64, 0.0),
    ({"lora": _LORA}, 64, 0.1),
  ],
)
def test_executed_flops_are_xla_s(one_device, changes, chunk_length, kl):
  """XLA counts arithmetic beside products too, and loops' bodies once."""
  lora = changes.get("lora", None)
  model = dataclasses.replace(_WIDE, **{**changes, "lora": None})
  model = lora.of(model) if lora else model
  flops = _flops_by_xla(model, one_device, Layout(64, 4, 1), chunk_length, kl)
  ours = update_flops(
    model,
    UpdateUsage(
      tokens=0,
      seconds=0.0,
      work={
        "num_microbatches": 1,
        "pairs": 4 * 64 * 64,
        "pairs_back": 2 * 4 * 64 * 64,
        "logit_tokens": 4 * chunk_length,  # of one chunk
      },
      tokens_per_microbatch=4 * 64,
      has_reference=kl > 0,
      keeps_logits=chunk_length >= 64,
    ),
  )
  assert ours == pytest.approx(flops, rel=0.05)


def test_executed_flops_of_loops_are_xla_s(one_device):
  """Layers in a loop, attention in a loop over blocks: a body of each."""
  model = dataclasses.replace(_WIDE, remat="full", scan_unroll=1)
  flops = _flops_by_xla(model, one_device, Layout(128, 4, 1), 128, 0.1)
  ours = update_flops(
    dataclasses.replace(model, num_layers=1),
    UpdateUsage(
      tokens=0,
      seconds=0.0,
      work={
        "num_microbatches": 1,
        "pairs": 64 * 64,
        "pairs_back": 2.5 * 64 * 64,
        "logit_tokens": 4 * 128,
      },
      tokens_per_microbatch=4 * 128,
      has_reference=True,
      keeps_logits=True,
    ),
  )
  assert ours == pytest.approx(flops, rel=0.05)


@pytest.mark.parametrize(
  ("length", "kernel", "times"),
  [(64, False, 2.0), (72, False, 2.5), (64, True, 3.5)],
)
def test_backward_passes_of_attention(change_backend, length, kernel, times):
  change_backend(has_attention_kernel=kernel)
  assert tree_attention.backward_passes(length) == times


def test_a_device_s_rows_share_their_chunks(eight_devices):
  """Every row goes through as many as its device's fullest one."""
  mask = np.zeros((8, 30), bool)
  for row, count in enumerate((1, 30, 0, 0, 7, 12, 8, 9)):
    mask[row, :count] = True
  scored = lambda: float(num_logit_tokens(mask, 8))
  assert scored() == 8 * 4 * 8  # on one device, four chunks
  with jax.set_mesh(eight_devices):  # rows are shared out over four
    assert scored() == 2 * (4 + 0 + 2 + 2) * 8


def test_prefill_is_what_xla_counts(one_device):
  sampler = Sampler(
    _WIDE,
    one_device,
    rows=2,
    lanes=2,
    trunk_length=64,
    completion_length=8,
    steps_per_dispatch=1,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    stop_tokens=(1,),
  )
  params = parameters.abstract_params(_WIDE, one_device)
  program = ours.compiled(sampler, params)["prefill a layer"]
  one = dataclasses.replace(_WIDE, num_layers=1)
  counted = 2 * 64 * flops_per_token(one, head=False)
  counted += 2 * attention_flops(one, 64 * 64)
  assert counted == pytest.approx(program.cost_analysis()["flops"], rel=0.05)


@pytest.mark.parametrize("window", [None, 70])
def test_pairs_of_a_trunk_are_its_schedule_s(window):
  kind = dataclasses.replace(_WIDE.kinds[0], window=window)
  model = dataclasses.replace(_WIDE, layer_kinds=(kind, _WIDE.kinds[1]))
  for length in (56, 64, 200):
    pairs = jax.jit(
      lambda n=length: tree_attention.for_layers(model, trunk_places(1, n))[1]
    )
    assert tree_attention.trunk_pairs(model, length) == float(pairs())
