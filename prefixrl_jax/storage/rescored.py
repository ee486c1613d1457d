"""Log-probabilities of kept rollouts under another policy, as Parquet."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from etils import epath

from prefixrl_jax.storage.files import File, write_parquet

_SCHEMA = pa.schema(
  [
    ("step", pa.int64()),
    ("group", pa.int32()),
    ("lane", pa.int32()),
    ("logprobs", pa.list_(pa.float32())),
  ]
)

# Step, group and lane of a rollout.
Place = tuple[int, int, int]


def write_rescored(
  path: epath.Path, rescored: Mapping[Place, np.ndarray]
) -> None:
  """Writes log-probabilities atomically, a row a rollout.

  Args:
    path: of the file.
    rescored: float32 [completion length] each.
  """
  rows = [
    {"step": step, "group": group, "lane": lane, "logprobs": logprobs}
    for (step, group, lane), logprobs in rescored.items()
  ]
  write_parquet(path, pa.Table.from_pylist(rows, schema=_SCHEMA))


def read_rescored(file: File) -> dict[Place, np.ndarray]:
  """Returns what `write_rescored` wrote.

  Raises:
    UserError: the file is missing or damaged.
  """
  return {
    (row["step"], row["group"], row["lane"]): np.array(
      row["logprobs"], np.float32
    )
    for row in file.read_table(_SCHEMA)
  }
