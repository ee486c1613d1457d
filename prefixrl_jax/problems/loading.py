"""From the config's section `problems` to the run's Problems."""

import dataclasses

import ml_collections

from prefixrl_jax.problems import checksum
from prefixrl_jax.problems.from_tfds import read_tfds
from prefixrl_jax.problems.jsonl import read_jsonl
from prefixrl_jax.types import Problem, UserError


def load_problems(
  config: ml_collections.ConfigDict, *, seed: int
) -> list[Problem]:
  """Returns the pool: train, heldout and easy problems, indices distinct.

  Args:
    config: section `problems`; `task` says which of the readers.
    seed: of the draw, where problems are drawn.
  """
  tasks = {"checksum": _checksum, "jsonl": _jsonl, "tfds": _tfds}
  if config.task not in tasks:
    raise UserError(
      f"config.problems.task = {config.task!r} is none of {', '.join(tasks)}."
    )
  return tasks[config.task](config, seed)


def _checksum(config, seed):
  problems: list[Problem] = []
  for split, count, blocks in (
    ("train", config.num_train, config.num_blocks),
    ("heldout", config.num_heldout, config.num_blocks),
    ("easy", config.num_easy, config.easy_blocks),
  ):
    problems += checksum.make_problems(
      count, blocks, seed=seed, split=split, start=len(problems)
    )
  return problems


def _jsonl(config, seed):
  del seed
  return _split(
    config,
    read_jsonl(
      config.file,
      source=config.file,
      split="train",
      problem_field=config.problem_field,
      answer_field=config.answer_field,
      answer_pattern=config.answer_pattern,
      id_field=config.id_field,
      limit=config.num_train + config.num_heldout,
      start=config.start,
    ),
  )


def _tfds(config, seed):
  del seed
  return _split(
    config,
    read_tfds(
      config.name,
      tfds_split=config.tfds_split,
      split="train",
      problem_field=config.problem_field,
      answer_field=config.answer_field,
      answer_pattern=config.answer_pattern,
      source=config.name,
      limit=config.num_train + config.num_heldout,
    ),
  )


def _split(config, problems):
  """The first num_train are trained on, the next are held out."""
  wanted = config.num_train + config.num_heldout
  if len(problems) < wanted:
    raise UserError(
      f"config.problems asks for {wanted} problems (num_train + num_heldout);"
      f" there are {len(problems)}."
    )
  return [
    dataclasses.replace(
      p,
      prompt=p.prompt + config.instruction,
      split="train" if i < config.num_train else "heldout",
    )
    for i, p in enumerate(problems[:wanted])
  ]
