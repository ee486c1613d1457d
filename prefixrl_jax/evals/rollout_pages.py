"""Training rollouts as a folder of pages that opens from the disk.

The pages are static: viewer.js, and data as scripts that it loads when they are
looked at, since a page that was opened from a file may not fetch others.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath

from prefixrl_jax.evals.page_files import Files, Page, to_script
from prefixrl_jax.storage import rollout_store
from prefixrl_jax.storage.files import whole_folder, write_bytes
from prefixrl_jax.text.pieces import token_pieces
from prefixrl_jax.text.tokenizer import Tokenizer
from prefixrl_jax.types import EvalResult, Problem

# Shown of all runs together: a folder of some 100 MB at most.
_MOST_ROLLOUTS, _MOST_TOKENS = 10_000, 4_000_000
_ROLLOUT_BYTES = 2_900_000  # of one, see page_files.py
_EXCERPT = 160  # characters of a problem in the list of problems
_ADVANTAGE = 11  # its column in the list of rollouts
_ROWS_AT_A_TIME = 256  # that are Python objects
_FILES = ("index.html", "viewer.css", "viewer.js", "reader.js")


@dataclasses.dataclass(frozen=True)
class ViewedRun:
  """A run whose rollouts are shown.

  Attributes:
    arm, seed: of the run.
    data_seed: whose problems it trained on.
    directory: of its training.
    before, after: evaluations of the base policy and of the trained one.
    rescored: the trained policy's log-probabilities of some rollouts, {(step,
      group, lane): float [length]}.
  """

  arm: str
  seed: int
  data_seed: int
  directory: epath.Path
  before: Sequence[EvalResult]
  after: Sequence[EvalResult]
  rescored: Mapping[tuple[int, int, int], np.ndarray]


def write_viewer(
  folder: epath.Path,
  runs: Sequence[ViewedRun],
  problems: Mapping[int, Sequence[Problem]],
  tokenizer: Tokenizer,
) -> int:
  """Writes the folder, whole, in place of the one that was there.

  Args:
    folder: for index.html and what it loads.
    runs: in display order.
    problems: {data seed: problems}; those that were trained on are shown.
    tokenizer: of the policies.

  Returns:
    How many rollouts are shown.
  """
  known = {(s, p.id): p for s, some in problems.items() for p in some}
  groups = [
    rollout_store.read_groups(run.directory).to_pylist() for run in runs
  ]
  numbers = _numbered(runs, groups, known)
  with whole_folder(folder) as made:
    (made / "data").mkdir()
    files = Files(made / "data")
    files.write_rows(
      "problems",
      ([p.id, _excerpt(p.prompt)] for p in (known[place] for place in numbers)),
    )
    files.write_rows(
      "outcomes",
      (
        outcome
        for number, (run, of_run) in enumerate(zip(runs, groups))
        for outcome in _outcomes(number, run, of_run, numbers)
      ),
    )
    rows = _write_pages(files, runs, numbers, known, tokenizer)
    files.write_rows("rollouts", rows)
    index = {
      "runs": [
        {
          "arm": run.arm,
          "seed": run.seed,
          "steps": max((g["step"] for g in of_run), default=0),
          "sampled": sum(g["num_completions"] for g in of_run),
          "kept": rollout_store.count_rollouts(run.directory),
        }
        for run, of_run in zip(runs, groups)
      ],
      "advantage": _usual_size([row[_ADVANTAGE] for row in rows]),
      "files": files.counts,
    }
    files.write("index", index)
    own = resources.files("prefixrl_jax.evals") / "rollout_viewer"
    for name in _FILES:
      write_bytes(made / name, (own / name).read_bytes())
  return len(rows)


def _numbered(
  runs: Sequence[ViewedRun],
  groups: Sequence[Sequence[dict[str, Any]]],
  known: Mapping[tuple[int, str], Problem],
) -> dict[tuple[int, str], int]:
  """Returns numbers of the problems that were trained on, by seed and id."""
  trained = {
    (run.data_seed, group["problem_id"])
    for run, of_run in zip(runs, groups)
    for group in of_run
  }
  places = (place for place in known if place in trained)
  return {place: number for number, place in enumerate(places)}


def _outcomes(
  number: int,
  run: ViewedRun,
  groups: Sequence[Mapping[str, Any]],
  numbers: Mapping[tuple[int, str], int],
) -> Iterator[list]:
  """Yields what came of each problem in a run.

  Each is problem, run; groups without prefix, the first step at which one of
  their completions was correct, or null; the same of groups with one; correct
  and all samples of the evaluation before training, and of that after it.
  """
  tries: dict[str, list[Any]] = {}
  for group in groups:
    found = tries.setdefault(group["problem_id"], [0, None, 0, None])
    kind = 2 if group["prefix_length"] else 0
    found[kind] += 1
    if group["num_correct"] and found[kind + 1] is None:
      found[kind + 1] = group["step"]
  before, after = (
    {r.problem_id: (r.num_correct, r.num_samples) for r in of if not r.fraction}
    for of in (run.before, run.after)
  )
  for problem_id, found in tries.items():
    problem = numbers.get((run.data_seed, problem_id))
    if problem is not None:
      evaluated = (
        before.get(problem_id, (0, 0)),
        after.get(problem_id, (0, 0)),
      )
      yield [problem, number, *found, *evaluated[0], *evaluated[1]]


def _write_pages(
  files: Files,
  runs: Sequence[ViewedRun],
  numbers: Mapping[tuple[int, str], int],
  known: Mapping[tuple[int, str], Problem],
  tokenizer: Tokenizer,
) -> list[list]:
  """Writes pages of rollouts, problem by problem.

  Returns:
    What the list of rollouts has of each: run, problem, step, group, lane,
    prefix length, its share of the trace, reward, truncated, length, mean
    log-probability, mean advantage or null, rescored, page.
  """
  sampled, order = _sampled(runs, numbers)
  shown = [known[place] for place in numbers]
  encoded = [*tokenizer.encode_prompts(p.prompt for p in shown)]
  page = Page(files)
  rows: list[list] = []
  for start in range(0, len(order), _ROWS_AT_A_TIME):
    some = order[start : start + _ROWS_AT_A_TIME]
    chosen = sampled.take([place for *_, place in some]).to_pylist()
    pieces = token_pieces(tokenizer, [row["tokens"] for row in chosen])
    prefixes = tokenizer.decode([row["prefix"] for row in chosen])
    for (problem, run, _), row, own, prefix in zip(
      some, chosen, pieces, prefixes
    ):
      place = (row["step"], row["group"], row["lane"])
      group = f"{run}/{row['step']}/{row['group']}"
      prompt = (str(problem), shown[problem].prompt)
      if row["prompt"] != encoded[problem]:  # it has a hint
        prompt = (group, tokenizer.decode([row["prompt"]])[0])
      final = runs[run].rescored.get(place)
      numbered = [row["logprobs"], row["advantages"], final]
      number = page.add(
        len(rows),
        _cut_rollout(own, *map(_in_thousandths, numbered)),
        prompt=prompt,
        prefix=(group, prefix),
      )
      rows.append(
        [
          run,
          problem,
          *place,
          row["prefix_length"],
          round(row["fraction"], 3),
          _finite(row["reward"]),
          int(row["truncated"]),
          row["length"],
          _mean(row["logprobs"]),
          _mean(row["advantages"]),
          int(final is not None),
          number,
        ]
      )
  page.close()
  return rows


def _sampled(
  runs: Sequence[ViewedRun], numbers: Mapping[tuple[int, str], int]
) -> tuple[pa.Table, list[tuple[int, int, int]]]:
  """Returns rollouts to be shown, and problem, run, place of each in order."""
  tables: list[pa.Table] = [rollout_store.ROLLOUT.empty_table()]
  order: list[tuple[int, int, int]] = []
  start = 0
  for number, run in enumerate(runs):
    table = rollout_store.sample_rollouts(
      run.directory,
      most=_MOST_ROLLOUTS // len(runs),
      most_tokens=_MOST_TOKENS // len(runs),
    )
    for place, problem_id in enumerate(table["problem_id"].to_pylist(), start):
      if (problem := numbers.get((run.data_seed, problem_id))) is not None:
        order.append((problem, number, place))
    tables.append(table)
    start += len(table)
  return pa.concat_tables(tables), sorted(order)


def _cut_rollout(pieces: list[str], *numbers: Any) -> str:
  """Returns pieces, numbers for them, and how many tokens are left out."""
  shown = len(pieces)
  while True:
    some = [x[:shown] if isinstance(x, list) else x for x in numbers]
    text = to_script([pieces[:shown], *some, len(pieces) - shown])
    if len(text) <= _ROLLOUT_BYTES:
      return text
    shown //= 2


def _in_thousandths(values: Sequence[float] | np.ndarray | None) -> Any:
  """Returns whole thousandths; one for all if they are alike."""
  if values is None:
    return None
  array = np.round(1000 * np.asarray(values, np.float64))
  bad = ~np.isfinite(array)
  whole: list[int | None] = np.where(bad, 0, array).astype(np.int64).tolist()
  for i in np.flatnonzero(bad):
    whole[i] = None
  return whole[0] if len(set(whole)) == 1 else whole


def _mean(values: Sequence[float] | None) -> float | None:
  return None if not values else _finite(float(np.mean(values)))


def _usual_size(values: Sequence[float | None]) -> float:
  """Returns a size that most numbers other than 0 do not exceed; 1 if none."""
  sizes = [abs(value) for value in values if value]
  return round(float(np.quantile(sizes, 0.95)), 4) if sizes else 1.0


def _finite(value: float) -> float | None:
  return round(value, 4) if math.isfinite(value) else None


def _excerpt(text: str) -> str:
  line = " ".join(text.split())
  return line if len(line) <= _EXCERPT else f"{line[: _EXCERPT - 1]}…"
