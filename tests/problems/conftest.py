"""A section `problems`, and files for it."""

import json

import pytest

from prefixrl_jax.configs import math


@pytest.fixture
def section():
  """Returns a maker of the section: fields by their dotted names."""

  def make(task, **fields):
    config = math.get_config(f"task={task},trial=true").problems
    config.update(num_train=2, num_heldout=1, instruction=" Go.")
    config.update_from_flattened_dict(
      {name.replace("__", "."): value for name, value in fields.items()}
    )
    return config

  return make


@pytest.fixture
def lines(tmp_path):
  """Returns a writer of JSONL files: name, rows -> path."""

  def write(name, *rows):
    path = tmp_path / name
    path.write_text(
      "\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows)
    )
    return str(path)

  return write
