"""What a run's programs are compiled for, of all that its data decide."""

import dataclasses
from collections.abc import Iterable, Sequence

import ml_collections
import numpy as np

from prefixrl_jax.learner import sft
from prefixrl_jax.learner.packing import Tree
from prefixrl_jax.prefixes.cuts import longest_cut
from prefixrl_jax.prefixes.schedules import Schedule, make_schedule
from prefixrl_jax.rounding import round_up
from prefixrl_jax.settings import arms


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Lengths and counts; all lengths are in tokens.

  Attributes:
    prompt: the longest of the curve's problems.
    trunk: the longest prompt and prefix in training, in whole eights.
    prefixed, originals: trees of each kind in a step of RL, at most.
    example: the longest prompt and the longest trace of SFT.
    sft_steps: how many steps of SFT come first.
  """

  prompt: int
  trunk: int
  prefixed: int
  originals: int
  example: tuple[int, int]
  sft_steps: int


def measured(
  prompts: Iterable[np.ndarray],
  longest_trunk: int,
  schedule: Schedule,
  examples: Sequence[Tree],
  sft_steps: int,
) -> Sizes:
  """Returns the sizes of data that are there.

  Args:
    prompts: int32 [prompt length] each, of the curve's problems.
    longest_trunk: that is sampled from in training, in tokens.
    schedule: says how many trees of each kind a step has.
    examples: the traces as `sft.example` has them.
    sft_steps: how many steps of SFT come first.
  """
  return Sizes(
    prompt=max(map(len, prompts)),
    trunk=longest_trunk,
    prefixed=schedule.num_prefixed,
    originals=schedule.num_originals,
    example=longest_example(examples),
    sft_steps=sft_steps,
  )


def longest_example(examples: Sequence[Tree]) -> tuple[int, int]:
  """Returns the tokens of the longest prompt and of the longest trace.

  Args:
    examples: the traces as `sft.example` has them.
  """
  return (
    max((len(t.trunk) for t in examples), default=0),
    max((len(t.lanes[0].tokens) for t in examples), default=0),
  )


def at_most(
  config: ml_collections.ConfigDict, arm: ml_collections.ConfigDict
) -> Sizes:
  """Returns the largest sizes that a config allows, before there are data.

  There is a trace for each training problem, as long as a completion may be.

  Args:
    config: the whole config.
    arm: a row of config.arms.
  """
  prompt = config.rollouts.max_prompt_length
  trace = config.rollouts.max_completion_length
  prefix = longest_cut(trace, config.prefixes.low, config.prefixes.high)
  schedule = make_schedule(
    problems=(),
    prefixed=(),
    prompts_per_step=config.train.prompts_per_step,
    prefixed_share=arm.prefixed_share,
    cuts_together=config.train.cuts_together,
    seed=0,
    **arm.schedule,
  )
  return Sizes(
    prompt=prompt,
    trunk=round_up(prompt + prefix * arms.uses_prefixes(arm), 8),
    prefixed=schedule.num_prefixed,
    originals=schedule.num_originals,
    example=(prompt, trace),
    sft_steps=sft.num_steps(
      config.problems.num_train * config.collect.traces_per_problem,
      config.sft.batch_size,
      arm.sft_epochs,
    ),
  )
