"""All tasks with problems from files or rules, one row each.

docs/tasks.md lists them, says where each schema was looked up, and how to add a
row.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prefixrl_jax.problems import code, countdown, gym, logic, math, parities
from prefixrl_jax.problems.reading import Draw, Getter, Reading
from prefixrl_jax.types import Problem


@dataclasses.dataclass(frozen=True)
class Source:
  """Where a task's problems come from and what judges them.

  Attributes:
    read: makes a problem of a row.
    verifier: a name in rewards/verifiers.py.
    columns: what `read` asks for -> columns that may hold it (see `Getter`),
      empty if none does. config.problems.level selects by "level", which rows
      may lack unless that is set.
    optional: names in `columns` that rows may lack.
    hub: data set on the Hugging Face hub.
    splits: split -> its files there, separated by commas; * for any text.
    heldout: the split of the held-out problems, if the source reserves one;
      empty: they follow the training problems.
    split_of: returns a row's split, for files that hold all splits.
    generate: draws rows, if there is no file.
    write_traces: worked solutions by rule.
    license: as on the hub's page; empty: not stated there.
    eval_only: never trained on.
  """

  read: Callable[[Getter], Reading]
  verifier: str
  columns: Mapping[str, str]
  optional: tuple[str, ...] = ()
  hub: str = ""
  splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
  heldout: str = ""
  split_of: Callable[[Getter], str] | None = None
  generate: Callable[[Draw], Iterator[dict[str, Any]]] | None = None
  write_traces: Callable[[Problem], Iterator[str]] | None = None
  license: str = ""
  eval_only: bool = False

  @property
  def split(self) -> str:
    """The split of the training problems, unless the config names another."""
    if "train" in self.splits or self.split_of:
      return "train"
    return next(iter(self.splits), "")


def _mbpp_split(get: Getter) -> str:
  """The authors' ranges of task_id."""
  number = get("task_id")
  for split, last in (("prompt", 10), ("test", 510), ("validation", 600)):
    if number <= last:
      return split
  return "train"


def _game24_split(get: Getter) -> str:
  """The ranks on which Tree of Thoughts is tested, if rows have ranks."""
  rank = get.maybe("level")
  return "test" if rank and 901 <= rank <= 1000 else "train"


_MATH = {"problem": "problem,question", "answer": "answer", "solution": ""}
_APPS = {
  "problem": "question,problem",
  "tests": "input_output",
  "starter_code": "starter_code",
  "level": "difficulty",
}
_HUMANEVAL = {
  "problem": "prompt",
  "entry_point": "entry_point",
  "tests": "test",
}
_NUMBERS = {"numbers": "numbers", "target": "target"}
_SUBJECTS = (
  "algebra",
  "counting_and_probability",
  "geometry",
  "intermediate_algebra",
  "number_theory",
  "prealgebra",
  "precalculus",
)
_HUMANEVAL_FILE = "openai_humaneval/test-00000-of-00001.parquet"

SOURCES: dict[str, Source] = {
  # -- math --------------------------------------------------------------------
  "math": Source(
    math.read,
    "math",
    _MATH | {"solution": "solution", "level": "level"},
    optional=("answer", "solution"),
    hub="EleutherAI/hendrycks_math",
    splits={
      split: ",".join(f"{s}/{split}-*.parquet" for s in _SUBJECTS)
      for split in ("train", "test")
    },
    heldout="test",
    license="MIT",
  ),
  "math500": Source(
    math.read,
    "math",
    _MATH | {"level": "level"},
    hub="HuggingFaceH4/MATH-500",
    splits={"test": "test.jsonl"},
    license="MIT",
  ),
  "gsm8k": Source(
    math.read,
    "math",
    _MATH,
    hub="openai/gsm8k",
    splits={s: f"main/{s}-*.parquet" for s in ("train", "test")},
    heldout="test",
    license="MIT",
  ),
  "dapo17k": Source(
    math.read,
    "math",
    {
      "problem": "prompt",
      "answer": "reward_model.ground_truth",
      "solution": "",
    },
    hub="BytedTsinghua-SIA/DAPO-Math-17k",
    splits={"train": "data/*.parquet"},
    license="Apache-2.0",
  ),
  "omni_math": Source(
    math.read,
    "math",
    _MATH | {"level": "difficulty"},
    hub="KbsdJames/Omni-MATH",
    splits={"test": "test.jsonl"},
    license="Apache-2.0",
  ),
  "deepmath": Source(
    math.read,
    "math",
    _MATH | {"answer": "final_answer", "level": "difficulty"},
    hub="zwhe99/DeepMath-103K",
    splits={"train": "data/train-*.parquet"},
    license="MIT",
  ),
  "aime2024": Source(
    math.read,
    "math",
    _MATH,
    hub="HuggingFaceH4/aime_2024",
    splits={"test": "data/train-*.parquet"},
    eval_only=True,
  ),
  "aime2025": Source(
    math.read,
    "math",
    _MATH,
    hub="MathArena/aime_2025",
    splits={"test": "data/train-*.parquet"},
    license="CC-BY-NC-SA-4.0",
    eval_only=True,
  ),
  "hmmt2025": Source(
    math.read,
    "math",
    _MATH,
    hub="MathArena/hmmt_feb_2025",
    splits={"test": "data/train-*.parquet"},
    license="CC-BY-NC-SA-4.0",
    eval_only=True,
  ),
  # -- code --------------------------------------------------------------------
  "apps": Source(
    code.read_apps,
    "code",
    _APPS,
    optional=("tests", "starter_code"),
    hub="codeparrot/apps",
    splits={"train": "train.jsonl", "test": "test.jsonl"},
    heldout="test",
    license="MIT",
  ),
  "code_contests": Source(
    code.read_contest,
    "code",
    {
      "problem": "description,problem",
      "tests": "public_tests,tests",
      "private_tests": "private_tests",
      "generated_tests": "generated_tests",
    },
    optional=("private_tests", "generated_tests"),
    hub="deepmind/code_contests",
    splits={s: f"data/{s}-*.parquet" for s in ("train", "valid", "test")},
    heldout="valid",
    license="CC-BY-4.0",
  ),
  "humaneval": Source(
    code.read_humaneval,
    "code",
    _HUMANEVAL,
    hub="openai/openai_humaneval",
    splits={"test": _HUMANEVAL_FILE},
    license="MIT",
  ),
  "humaneval_completion": Source(
    code.read_humaneval_completion,
    "code",
    _HUMANEVAL,
    hub="openai/openai_humaneval",
    splits={"test": _HUMANEVAL_FILE},
    license="MIT",
  ),
  "mbpp": Source(
    code.read_mbpp,
    "code",
    {
      "problem": "text,prompt",
      "tests": "test_list",
      "setup": "test_setup_code,test_imports",
      "task_id": "task_id",
    },
    optional=("setup",),
    hub="google-research-datasets/mbpp",
    splits={
      s: f"full/{s}-*.parquet"
      for s in ("train", "test", "validation", "prompt")
    },
    heldout="test",
    split_of=_mbpp_split,
    license="CC-BY-4.0",
  ),
  # -- logic -------------------------------------------------------------------
  "folio": Source(
    logic.read_folio,
    "logic",
    {
      "premises": "premises",
      "conclusion": "conclusion",
      "answer": "label,answer",
    },
    hub="yale-nlp/FOLIO",
    splits={s: f"folio_v2_{s}.jsonl" for s in ("train", "validation")},
    heldout="validation",
    license="CC-BY-SA-4.0",
  ),
  "prontoqa": Source(
    logic.read_prontoqa,
    "logic",
    {
      "premises": "context,test_example.question,question",
      "conclusion": "test_example.query,query,question",
      "answer": "test_example.answer,answer",
    },
  ),
  # -- drawn by rule -----------------------------------------------------------
  "countdown": Source(
    countdown.read,
    "countdown",
    _NUMBERS,
    generate=countdown.generate,
    write_traces=countdown.write_traces,
  ),
  "game24": Source(
    countdown.read,
    "countdown",
    _NUMBERS | {"level": "rank"},
    heldout="test",
    split_of=_game24_split,
    generate=countdown.generate_24,
    write_traces=countdown.write_traces,
  ),
  "parities": Source(
    parities.read,
    "math",
    {"blocks": "blocks"},
    generate=parities.generate,
    write_traces=parities.write_traces,
  ),
  "gym": Source(
    gym.read,
    "gym",
    {
      "question": "question",
      "answer": "answer",
      "metadata": "metadata",
      "dataset": "dataset",
    },
    optional=("answer",),
    generate=gym.generate,
  ),
}
