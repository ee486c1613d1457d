"""Long stages work through their problems in parts, each kept once made."""

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
  """Works through problems in parts; a part that is on disk is kept.

  A part says which problems it has, so that its size may change meanwhile. One
  that is damaged is made again.

  Args:
    folder: of the parts; a Parquet file and a JSON file each.
    problems: all of them.
    size: problems of a part that is made now.
    model: what a ledger counts FLOPs of.
    make: (problems, file, ledger) -> None; writes the file, fills the ledger.
    show: prints a line.
    on_part: called with every part that was there or is made: how many
      problems, its file, what it cost.

  Returns:
    The parts' files, not in the problems' order, and what all of them cost.
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
      part = read_sealed(record, "It is made again.")
      File(file, part["file_sha256"], "It is made again.").read_bytes()
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
