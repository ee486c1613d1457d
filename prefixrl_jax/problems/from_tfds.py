"""Problems from TensorFlow Datasets, read without TensorFlow."""

from prefixrl_jax.problems.jsonl import make_problems
from prefixrl_jax.types import Problem, UserError


def read_tfds(
  name: str,
  *,
  tfds_split: str,
  source: str,
  split: str,
  problem_field: str,
  answer_field: str,
  answer_pattern: str = "",
  limit: int | None = None,
) -> list[Problem]:
  """Reads a prepared data set as a random-access source (array_record).

  Args:
    name: as for tfds.builder, e.g. "gsm8k".
    tfds_split: e.g. "train" or "test[:500]".
    source, split, problem_field, answer_field, answer_pattern, limit: see
      `read_jsonl`.

  Raises:
    UserError: the data set cannot be had here.
  """
  import tensorflow_datasets as tfds  # slow to import, and rarely needed

  try:
    data = tfds.data_source(name, split=tfds_split)
  except Exception as e:  # offline, unknown or unprepared: all look different
    raise UserError(
      f"tfds cannot load {name!r}, split {tfds_split!r}:"
      f" {type(e).__name__}: {str(e).strip().splitlines()[0]}\nPrepare it where"
      f" there is a network (tfds build {name} --file_format=array_record) and"
      " point TFDS_DATA_DIR at the result, or use config.problems.task ="
      " 'jsonl'."
    ) from None
  count = len(data) if limit is None else min(limit, len(data))
  text = lambda v: v.decode() if isinstance(v, bytes) else v
  rows = (
    (i, {key: text(value) for key, value in data[i].items()})
    for i in range(count)
  )
  return make_problems(
    rows,
    place=lambda number: f"tfds {name}, row {number}",
    source=source,
    split=split,
    problem_field=problem_field,
    answer_field=answer_field,
    answer_pattern=answer_pattern,
    id_field="",
  )
