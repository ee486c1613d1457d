"""The README.md of an exported policy: what it is, made from its run."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prefixrl_jax import __version__
from prefixrl_jax.evals.names import arm_label, split_label
from prefixrl_jax.evals.summary import final_of
from prefixrl_jax.types import EvalResult

# What published adapters call a base model that was a folder: to be replaced.
UNKNOWN_BASE = "HUB-NAME-OF/"


class Card(NamedTuple):
  """What a card says.

  Attributes:
    base: the model it was trained from, as people call it.
    base_on_hub: whether that is a repository's name.
    base_of_adapters: what adapters in peft's format call their base; None: it
      is a whole model.
    arm: the method.
    seed: of the run.
    step: of the checkpoint.
    facts: of the training, {what: value}.
    temperature: of the evaluation.
    before: results of the base model, without prefix.
    after: results of the policy; empty: it was not evaluated as it is here.
  """

  base: str
  base_on_hub: bool
  base_of_adapters: str | None
  arm: str
  seed: int
  step: int
  facts: Mapping[str, Any]
  temperature: float
  before: Sequence[EvalResult] = ()
  after: Sequence[EvalResult] = ()


def write_card(card: Card) -> str:
  """Returns the text of README.md, its header as the hub reads it."""
  is_peft = card.base_of_adapters is not None
  library = "peft" if is_peft else "transformers"
  header = [
    *([f"base_model: {json.dumps(card.base)}"] if card.base_on_hub else []),
    f"library_name: {library}",
    "pipeline_tag: text-generation",
    "tags: [prefixrl, reinforcement-learning]",
  ]
  what = "LoRA adapters for" if is_peft else "A policy trained from"
  return "\n".join(
    [
      "---",
      *header,
      "---",
      "",
      f"# {arm_label(card.arm)} from {card.base.rpartition('/')[2]}",
      "",
      f"{what} `{card.base}` by reinforcement learning with prefixrl_jax"
      f" {__version__}, an implementation of"
      " [PrefixRL](https://arxiv.org/abs/2601.18795) and of the methods that"
      f" it is compared with: arm `{card.arm}`, seed {card.seed}, step"
      f" {card.step}.",
      "",
      *_placeholder(card),
      "| training | |",
      "|---|---|",
      *(f"| {name} | {value} |" for name, value in card.facts.items()),
      "",
      *_accuracy(card),
      "",
      "The reward is a program's verdict on the final answer, so reasoning that"
      " reaches a right answer by a wrong way was rewarded too. Nothing else"
      " about the model, such as its safety, was evaluated.",
      "",
    ]
  )


def _placeholder(card: Card) -> list[str]:
  """Says what to write where the base model's name is not known."""
  base = card.base_of_adapters or ""
  if not base.startswith(UNKNOWN_BASE):
    return []
  return [
    f"Before these adapters are loaded, replace `{base}` in"
    " `adapter_config.json` by the base model's name on the hub, or by its"
    " folder.",
    "",
  ]


def _accuracy(card: Card) -> list[str]:
  if not card.after:
    return ["This checkpoint has not been evaluated."]
  before, after = _by_split(card.before), _by_split(card.after)
  return [
    f"Accuracy without prefix at temperature {card.temperature:g}, in %, with"
    " 95 % intervals over problems. The training problems are ones that the"
    " base model hardly ever solves.",
    "",
    "| problems | number | samples of each | base model | this model |",
    "|---|---|---|---|---|",
    *(
      f"| {split_label(split)} | {final['num_problems']}"
      f" | {final['num_samples']} | {_percent(before.get(split))}"
      f" | {_percent(final)} |"
      for split, final in after.items()
    ),
  ]


def _by_split(results: Sequence[EvalResult]) -> dict[str, dict[str, Any]]:
  splits: dict[str, list[EvalResult]] = {}
  for result in results:
    if result.fraction == 0:
      splits.setdefault(result.split, []).append(result)
  return {split: final_of(some) for split, some in splits.items()}


def _percent(final: dict[str, Any] | None) -> str:
  if final is None:
    return "not evaluated"
  low, high = (f"{100 * end:.1f}" for end in final["interval"])
  return f"{100 * final['accuracy']:.1f} ({low} to {high})"
