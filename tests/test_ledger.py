"""The ledger against counts done by hand."""

import pytest

from prefixrl_jax.ledger import PURPOSES, Ledger
from prefixrl_jax.models import transformer
from prefixrl_jax.models.decoder_config import Lora
from prefixrl_jax.rollouts.sampler import Usage

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
  assert transformer.num_params(_MODEL) == _PARAMS


def test_sampling_by_hand():
  ledger = Ledger(_MODEL)
  ledger.add_sampling(
    "sampling",
    Usage(
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
  executed = 6 * _TOKEN + 12 * (_TOKEN + _HEAD) + _attention(156)
  assert entry == {
    "flops_paper": 2 * _PARAMS * 17,
    "flops_executed": executed,
    "tokens": 17,
    "completions": 2,
    "seconds": 0.5,
  }


def test_update_of_adapters_by_hand():
  # Rank 2 beside queries (8 -> 2 x 4) and gates (8 -> 16) of three layers.
  lora = Lora(rank=2, alpha=4.0, targets=("query", "gate"))
  adapted = 3 * 2 * ((8 + 8) + (8 + 16))
  ledger = Ledger(lora.of(_MODEL))
  ledger.add_update(
    "update",
    tokens=17,
    work={"micros": 2.0, "pairs": 70.0, "scored": 8.0},
    tokens_per_micro=24,
    remat=False,
    seconds=0.5,
  )
  entry = ledger.to_dict()["update"]
  assert entry["flops_paper"] == 6 * _PARAMS * 17
  # Frozen weights have one product in the backward pass, adapters two.
  forward = 48 * _TOKEN + _attention(70)
  assert entry["flops_executed"] == (
    2 * forward + 3 * 8 * _HEAD + 3 * 48 * 2 * adapted
  )


@pytest.mark.parametrize(("remat", "times"), [(False, 3), (True, 4)])
def test_update_by_hand(remat, times):
  ledger = Ledger(_MODEL)
  ledger.add_update(
    "update",
    tokens=17,
    work={"micros": 2, "pairs": 100, "scored": 24},
    tokens_per_micro=18,
    remat=remat,
    seconds=1.0,
  )
  entry = ledger.to_dict()["update"]
  forward = 36 * _TOKEN + _attention(100)
  assert entry["flops_paper"] == 6 * _PARAMS * 17
  assert entry["flops_executed"] == times * forward + 4 * 24 * _HEAD


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
  # screening, collection, sft, sampling, update, evaluation
  assert ledger.training_flops() == 11110
  assert ledger.training_flops("flops_executed") == 22220


def test_comes_back_from_its_dict():
  ledger = Ledger(_MODEL)
  ledger.add_sampling("collection", Usage(1, 2, 3, 4, 5, 6.0, 7.0))
  other = Ledger(_MODEL)
  other.set_entries(ledger.to_dict())
  assert other.to_dict() == ledger.to_dict()
