"""How fast problems and other people's traces are read, and what it takes.

  python -m benchmarks.reading --folder=MODEL

It writes files of generated rows: problems of 280 characters, traces of
--words words, ten of each problem. `problems` is all of `load_parts`; `traces`
is everything up to the verifier: read, matched, checked for copies, tokenised
and decoded with MODEL's tokenizer or, without one, with none. Seconds are the
processor's own, those of all cores together.
"""

import itertools
import json
import pathlib
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from absl import flags
from etils import epath

from benchmarks import measuring
from prefixrl_jax.configs import math
from prefixrl_jax.problems.loading import load_parts
from prefixrl_jax.problems.streams import problem_text
from prefixrl_jax.rounding import ceil_div
from prefixrl_jax.text.tokenizer import Tokenizer, load_tokenizer
from prefixrl_jax.traces.foreign import GUESSES, read_foreign
from prefixrl_jax.traces.imports import ImportSettings, import_traces
from prefixrl_jax.types import Verdict

_PROBLEMS = flags.DEFINE_integer("problems", 200_000, "Rows.", 1)
_TRACES = flags.DEFINE_integer("traces", 20_000, "Rows.", 1)
_WORDS_EACH = flags.DEFINE_integer("words", 270, "Of a trace.", 1)
_FOLDER = flags.DEFINE_string("folder", "", "Of a model, for its tokenizer.")
_JSON = measuring.define_json()
_EACH = 10  # traces of a problem
_TEXT = (
  "the area of a triangle is such that its radius and the circle so that lines"
  " meet in points where the greatest or least real root has the positive value"
)
_WORDS = tuple(_TEXT.split())


class _NoTokenizer:
  """Stands for one whose time does not count."""

  vocab_size, pad = 2, 0
  stop_tokens: tuple[int, ...] = (1,)

  def encode(self, text: str) -> list[int]:
    del text
    return [0]

  def encode_prompts(self, texts) -> Iterator[list[int]]:
    return map(self.encode, texts)

  encode_replies = encode_prompts

  def most_tokens(self, text: str) -> float:
    return len(text)

  def decode(self, many) -> list[str]:
    return [""] * len(many)

  def prompt_text(self, text: str) -> str:
    return text


class _AllWrong:
  """A verifier whose time does not count; no problem ever has enough."""

  def judge(self, problems, texts) -> list[Verdict]:
    del problems
    return [Verdict(0.0) for _ in texts]

  def close(self) -> None:
    pass


def _problems(rng: random.Random) -> Iterator[dict[str, Any]]:
  for i in itertools.count():
    words = " ".join(rng.choices(_WORDS, k=40))
    text = (
      f"{words} if $x_{{{i}}} + {i % 1013} = \\frac{{{i}}}{{7}}$. Find $x$."
    )
    yield {"problem": text, "answer": str(i % 1000)}


def _traces(rng: random.Random) -> Iterator[dict[str, Any]]:
  for row in _problems(random.Random(0)):
    for _ in range(_EACH):
      thoughts = " ".join(rng.choices(_WORDS, k=_WORDS_EACH.value))
      text = f"<think>\n{thoughts}\n</think>\n\n\\boxed{{{row['answer']}}}"
      yield {
        "problem": f"{row['problem']}\nAnswer in \\boxed{{}}.",
        "generation": text,
        "finish_reason": "stop",
      }


def _write(path: pathlib.Path, rows: Iterator[dict[str, Any]]) -> str:
  with path.open("w") as f:
    f.writelines(json.dumps(row) + "\n" for row in rows)
  return str(path)


def main() -> None:
  """Writes the files, reads them and prints the table."""
  with tempfile.TemporaryDirectory() as folder:
    table = [_read_problems(pathlib.Path(folder))]
    table.append(_read_traces(pathlib.Path(folder)))
  measuring.show("Reading, up to the verifier", table, _JSON.value)


def _section(file: str, count: int):
  section = math.get_config("").problems
  section.update(file=file, num_train=count, num_heldout=0)
  return section


def _row(what: str, count: int, size: int, seconds: float) -> dict[str, Any]:
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
  return {
    "of": what,
    "rows": count,
    "s": round(seconds, 1),
    "a second and core": round(count / seconds),
    "million characters": round(size / 1e6, 1),
    "thousand characters a second and core": round(size / seconds / 1e3),
    "process's peak, MB": round(peak),
  }


def _read_problems(folder: pathlib.Path) -> dict[str, Any]:
  count = _PROBLEMS.value
  rows = itertools.islice(_problems(random.Random(0)), count)
  section = _section(_write(folder / "problems.jsonl", rows), count)
  started = time.process_time()
  parts = load_parts(section, seed=0)
  seconds = time.process_time() - started
  assert len(parts[0].problems) == count
  size = sum(len(p.prompt) for p in parts[0].problems)
  return _row("problems", count, size, seconds)


def _read_traces(folder: pathlib.Path) -> dict[str, Any]:
  count = _TRACES.value
  rows = itertools.islice(_traces(random.Random(1)), count)
  file = _write(folder / "traces.jsonl", rows)
  section = _section(str(folder / "problems.jsonl"), ceil_div(count, _EACH))
  problems = load_parts(section, seed=0)[0].problems
  tokenizer: Tokenizer = _NoTokenizer()
  if _FOLDER.value:
    tokenizer = load_tokenizer(epath.Path(_FOLDER.value))
  size = 0

  def counted():
    nonlocal size
    for share, traces in foreign:
      size += sum(len(trace.text) for trace in traces)
      yield share, traces

  started = time.process_time()
  foreign = read_foreign(
    [epath.Path(file)], model="", **dict.fromkeys(GUESSES, "")
  )
  made = import_traces(
    counted(),
    problems,
    ImportSettings(
      verifier=_AllWrong(),
      tokenizer=tokenizer,
      has_answer=lambda text: True,
      max_completion_length=1 << 20,
      traces_per_problem=1,
      text_of=lambda problem: problem_text(problem, section.instruction),
    ),
    on_progress=lambda share, counts: None,
  )
  seconds = time.process_time() - started
  assert made.counts["wrong"] == count
  what = f"traces, {_FOLDER.value or 'no tokenizer'}"
  return _row(what, count, size, seconds)


if __name__ == "__main__":
  measuring.run(main)
