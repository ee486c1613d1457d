"""Long stages process their problems in parts and keep each finished part."""

from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from prefixrl_jax.ledger import Ledger
from prefixrl_jax.models.transformer import TransformerConfig
from prefixrl_jax.storage.files import (
  Damaged,
  File,
  digest,
  read_sealed,
  remove,
  write_sealed,
)
from prefixrl_jax.types import Problem


def in_parts(
  folder: epath.Path,
  problems: Sequence[Problem],
  *,
  size: int,
  model: TransformerConfig,
  make: Callable[[Sequence[Problem], epath.Path, Ledger], None],
  show: Callable[[str], Any],
  on_part: Callable[[int, File, dict], None] = lambda *_: None,
) -> tuple[list[File], dict]:
  """Processes problems in parts, except those on disk already.

  A part records its problems, so the size may change between runs. A damaged
  part is re-made.

  Args:
    folder: of the parts; each is a Parquet file and a JSON file.
    problems: all of them.
    size: problems per new part.
    model: the model whose FLOPs a ledger counts.
    make: (problems, file, ledger) -> None; writes the file, fills the ledger.
    show: prints a line.
    on_part: called for every part, old or new, with (number of problems, file,
      ledger).

  Returns:
    The parts' files, not in the problems' order, and their summed ledger.
  """
  total, files = Ledger(model), []

  def add(num_problems: int, file: File, cost: dict) -> None:
    total.add_entries(cost)
    files.append(file)
    on_part(num_problems, file, cost)

  place = {p.id: i for i, p in enumerate(problems)}
  done: set[str] = set()
  for record in sorted(folder.glob("*.json")) if folder.exists() else []:
    file = record.with_suffix(".parquet")
    try:
      part = read_sealed(record, "It is re-made.")
      File(file, part["file_sha256"], "It is re-made.").read_bytes()
    except Damaged as e:
      show(str(e))
      remove(record)
      continue
    done.update(part["problems"])
    add(len(part["problems"]), File(file, part["file_sha256"]), part["ledger"])
  rest = [p for p in problems if p.id not in done]
  for i in range(0, len(rest), size):
    some = rest[i : i + size]
    file = folder / f"{place[some[0].id]:06d}.parquet"
    ledger = Ledger(model)
    make(some, file, ledger)
    sha256 = digest(file)
    write_sealed(
      file.with_suffix(".json"),  # last
      {
        "problems": [p.id for p in some],
        "file_sha256": sha256,
        "ledger": ledger.to_dict(),
      },
    )
    add(len(some), File(file, sha256), ledger.to_dict())
  return files, total.to_dict()
