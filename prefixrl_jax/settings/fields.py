"""Every field a config can have: what it may be, and what it is for.

One table, by section. `is_execution` says which fields change only how a result
is computed. checks.py holds a config against the table, validation.py one field
against another.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from prefixrl_jax.embedded import tasks
from prefixrl_jax.learner.advantages import ESTIMATORS, KL_ESTIMATORS
from prefixrl_jax.rewards.verifiers import VERIFIERS
from prefixrl_jax.settings.rules import (
  COUNT,
  COUNT_OR_NONE,
  DTYPE,
  NAME,
  PATTERN,
  POSITIVE,
  RATE,
  SECONDS,
  SEED,
  SHARE,
  SIZE_OF_MESH,
  SWITCH,
  TEXT,
  Rule,
  one_of,
  real,
  several,
  text_with,
  whole,
)


@dataclasses.dataclass(frozen=True)
class Field:
  """A field of the config.

  Attributes:
    rule: what its value may be.
    help: what it is for, in a line.
    execution: changes how results are computed, in what order, with how much
      memory or where they are shown, and at most the rounding of results.
  """

  rule: Rule
  help: str
  execution: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
  """A section whose field `name` says which others it has.

  Attributes:
    options: {name: its fields}.
    help: what is chosen, in a line.
  """

  options: Mapping[str, Mapping[str, Field]]
  help: str

  def tree(self, name: Any) -> "Section":
    """Returns the section's fields where `name` is chosen."""
    chosen = self.options.get(name, {}) if isinstance(name, str) else {}
    return {"name": Field(one_of(*self.options), self.help), **chosen}

  def whole(self) -> "Section":
    """Returns the fields of all choices."""
    return {k: v for name in self.options for k, v in self.tree(name).items()}


Section = Mapping[str, Any]  # of sections (Section, Choice) and fields (Field)
ANY, EACH = "NAME", "N"  # in a path: any name, any place of a list


def _how(rule: Rule, words: str) -> Field:
  """A field that changes only how results are computed."""
  return Field(rule, words, execution=True)


_OPTIMIZER = {
  "b1": Field(real(0, 1, open_high=True), "AdamW: decay of the mean"),
  "b2": Field(real(0, 1, open_high=True), "AdamW: decay of the square"),
  "eps": Field(RATE, "AdamW: added to the divisor"),
  "weight_decay": Field(SHARE, "AdamW: times the learning rate"),
  "clip_norm": Field(real(0, 1e30), "global norm of a gradient; 0: any"),
}
_SAMPLER = {
  "rows": _how(COUNT, "prompts that are sampled at a time"),
  "lanes": _how(COUNT, "completions of a prompt that are sampled at a time"),
}
LOSSES = {
  "policy_gradient": {},
  "clipped": {
    "clip_low": Field(SHARE, "how far the ratio may go below 1"),
    "clip_high": Field(real(0, 1e30), "how far the ratio may go above 1"),
  },
}
SCHEDULES = {
  "mixture": {},
  "adaptive": {
    "low": Field(SHARE, "success below which a prefix is lengthened"),
    "high": Field(SHARE, "success above which a prefix is shortened"),
  },
}
_PART = _how(COUNT, "problems between two points to go on from")

_COMMON: Section = {
  "run_arms": Field(several(NAME), "rows of `arms` that are trained"),
  "seeds": Field(several(SEED), "of everything random, a run each"),
  "fresh_data_per_seed": Field(
    SWITCH, "each seed has problems and traces of its own"
  ),
  "wandb_project": _how(TEXT, "also log to Weights & Biases; empty: do not"),
  "mesh": {
    "data": _how(SIZE_OF_MESH, "replicas of the parameters; -1: the rest"),
    "fsdp": _how(SIZE_OF_MESH, "shards of parameters and batch; -1: the rest"),
    "tensor": _how(SIZE_OF_MESH, "devices that share a layer; -1: the rest"),
    "expert": _how(SIZE_OF_MESH, "devices that share experts; -1: the rest"),
  },
  "model": {
    "folder": Field(TEXT, "Hugging Face folder or ORGANISATION/MODEL[@REV]"),
    "base": Field(TEXT, "an own alphabet's model; empty: it is pretrained"),
    "dtype": Field(DTYPE, "of activations"),
    "param_dtype": Field(DTYPE, "of the trained parameters"),
    "remat": _how(
      one_of("none", "full", "auto"),
      "recompute layers in the backward pass; auto: if memory asks for it",
    ),
  },
  "rewards": {
    "verifier": Field(one_of("", *VERIFIERS), "empty: the task's own"),
    "num_workers": _how(whole(0, 4096), "processes that judge; 0: one a core"),
    "timeout_seconds": _how(SECONDS, "of a comparison or a program's test"),
    "total_seconds": _how(SECONDS, "of all tests of a program"),
    "memory_mb": Field(whole(64), "of a program; Python itself needs 20"),
    "sandbox": Field(
      one_of("bubblewrap", "unsafe_subprocess"),
      "of programs; the second only within a container of yours",
    ),
    "partial": Field(SWITCH, "the share of tests passed is the reward"),
  },
  "screen": {
    "num_samples": Field(COUNT, "of a problem"),
    "max_correct": Field(COUNT_OR_NONE, "of them, for it to be hard"),
    **_SAMPLER,
    "problems_per_part": _PART,
  },
  "collect": {
    "budget": Field(COUNT, "attempts at a hard problem, at most"),
    "traces_per_problem": Field(COUNT, "correct ones, at most"),
    **_SAMPLER,
    "problems_per_part": _PART,
  },
  "traces": {
    "file": Field(TEXT, "of other people's traces, or rules:TASK"),
    "model": Field(TEXT, "who wrote them, where no column says so"),
    "problem_field": Field(TEXT, "column; empty: guessed"),
    "id_field": Field(TEXT, "column; empty: guessed"),
    "text_field": Field(TEXT, "column; empty: guessed"),
    "reasoning_field": Field(TEXT, "column of thoughts; empty: guessed"),
    "model_field": Field(TEXT, "column; empty: guessed"),
    "finish_field": Field(TEXT, "column; empty: guessed"),
    "verdict_field": Field(TEXT, "column; empty: guessed"),
  },
  "prefixes": {
    "num_cuts": Field(COUNT, "prefixes of a trace"),
    "low": Field(SHARE, "least share of a trace that a prefix is"),
    "high": Field(SHARE, "largest share"),
  },
  "rollouts": {
    "max_prompt_length": Field(COUNT, "tokens"),
    "max_completion_length": Field(COUNT, "tokens"),
    "steps_per_dispatch": _how(COUNT, "tokens between two looks of the host"),
    "temperature": Field(real(0.01, 100), "of the policy that is trained"),
    "top_k": Field(COUNT_OR_NONE, "0: off; biases the ratio"),
    "top_p": Field(RATE, "1: off; biases the ratio"),
  },
  "learner": {
    "optimizer": _OPTIMIZER,
    "warmup_steps": Field(COUNT_OR_NONE, "of the learning rate, linear"),
    "decay_steps": Field(COUNT_OR_NONE, "cosine to a tenth; 0: stays"),
    "advantage": Field(one_of(*ESTIMATORS), "reward against its group"),
    "discount": Field(RATE, "of a reward, a token of its completion"),
    "kl_coefficient": Field(real(0, 1e30), "of the distance from the base"),
    "kl_estimator": Field(
      one_of(*KL_ESTIMATORS), "its gradient: see learner/losses.py"
    ),
    # Without it, a run in which it changes anything does not end.
    "skip_nonfinite": _how(SWITCH, "leave out an update that is NaN or inf"),
    "rows_per_microbatch": _how(COUNT_OR_NONE, "0: as many as fit"),
    "logits_chunk_length": _how(COUNT, "tokens whose logits exist at a time"),
    "row_length": _how(COUNT, "tokens of a packed row, unless a tree is more"),
  },
  "sft": {
    "batch_size": Field(COUNT, "traces a step"),
    "learning_rate": Field(RATE, "at its peak"),
  },
  "arms": {
    ANY: {
      "prefixed_share": Field(SHARE, "of a step's problems"),
      "sft_epochs": Field(COUNT_OR_NONE, "on the traces, before RL"),
      "learning_rate": Field(RATE, "of RL, at its peak"),
      "schedule": Choice(SCHEDULES, "of prefixes: see prefixes/schedules.py"),
      "loss": Choice(LOSSES, "of the update: see learner/losses.py"),
    }
  },
  "train": {
    "flops": Field(POSITIVE, "every arm's budget, by the paper's count"),
    "max_steps": Field(COUNT_OR_NONE, "of RL; 0: what the budget allows"),
    "prompts_per_step": Field(COUNT, "prefixed and original problems"),
    "rows": _how(COUNT_OR_NONE, "prompts sampled at a time; 0: all"),
    "cuts_together": Field(SWITCH, "a step has all cuts of a trace"),
    "completions_per_prompt": Field(whole(2), "whose mean is the baseline"),
    "checkpoint_every": _how(COUNT, "steps"),
    "checkpoints_kept": _how(COUNT, "the newest"),
    "rollouts_kept": {
      "share": _how(SHARE, "of the groups, whose rollouts are kept; 0: none"),
      "max_megabytes": _how(COUNT, "of a run's rollouts; beyond: thinned"),
    },
    "log_every": _how(COUNT, "steps between two lines on the terminal"),
  },
  "evals": {
    **_SAMPLER,
    "temperature": Field(real(0, 100), "finally; 0: greedy"),
    "num_samples": Field(COUNT, "of a problem, finally, without prefix"),
    "final_problems": Field(COUNT_OR_NONE, "of a split, at most; 0: all"),
    "fractions": Field(
      several(real(0, 1, open_low=True, open_high=True), may_be_empty=True),
      "of a trace that are revealed; 0 always is evaluated",
    ),
    "fraction_samples": Field(COUNT, "of a problem, at each of them"),
    "curve_points": Field(COUNT, "evaluations while training"),
    "curve_temperature": Field(real(0, 100), "of these; 0: greedy"),
    "curve_samples": Field(COUNT, "of a problem, at each of them"),
    "curve_problems": Field(COUNT_OR_NONE, "of a split, at most; 0: all"),
    "marker": Field(
      PATTERN, "completions that hold it are counted; empty: the task's own"
    ),
    "run_sets": Field(TEXT, "rows of `sets` to evaluate on, + between"),
  },
  "lora": {
    "rank": Field(COUNT_OR_NONE, "of adapters; 0: all weights are trained"),
    "alpha": Field(POSITIVE, "adapters count alpha / rank"),
    "targets": Field(NAME, "all, or attention, mlp, names, with + between"),
  },
  "export": {
    "lora": _how(one_of("merged", "peft"), "adapters added in, or alone"),
    "arm": _how(TEXT, "empty: the first of run_arms"),
    "seed": _how(whole(-1), "-1: the first of seeds"),
    "step": _how(whole(-1), "of the checkpoint; -1: the last"),
    "directory": _how(TEXT, "empty: export/ARM/seed_N/model in the workdir"),
    "dtype": _how(one_of("", "float32", "bfloat16"), "empty: param_dtype"),
    "shard_gigabytes": _how(POSITIVE, "of the largest weight file"),
  },
}
_PROBLEMS = whole(0, 10_000_000)  # more would be drawn for hours
_COUNTS_OF_PROBLEMS = {
  "num_train": Field(_PROBLEMS, "problems to train on"),
  "num_heldout": Field(_PROBLEMS, "problems to evaluate on"),
}
_SET = {
  "num_problems": Field(_PROBLEMS, "of the set; 0: all that there are"),
  "num_samples": Field(COUNT_OR_NONE, "of a problem; 0: evals.num_samples"),
}
# What tasks with an alphabet of their own have besides.
_SYMBOLS: Section = {
  "model": {
    "num_layers": Field(COUNT, "of the model that is made here, as below"),
    "width": Field(COUNT, "of the residual"),
    "num_heads": Field(COUNT, "of queries"),
    "num_kv_heads": Field(COUNT, "of keys and values; divides num_heads"),
    "head_dim": Field(COUNT, "of a head; even"),
    "mlp_width": Field(COUNT, "of an MLP's hidden layer"),
    "vocab_size": Field(COUNT, "at least the task's symbols"),
    "mlp": Field(one_of("gelu", "gated_gelu", "gated_silu"), "its kind"),
    "rope_base": Field(real(1, 1e30, open_low=True), "of the rotations"),
    "norm_eps": Field(RATE, "added to the divisor of norms"),
    "tied_head": Field(SWITCH, "the embedding is the head, too"),
    "scan_unroll": _how(COUNT, "layers that are compiled in one piece"),
  },
  "problems": {
    "task": Field(NAME, "docs/tasks.md has them"),
    "size": Field(COUNT, "blocks or numbers of a problem"),
    **_COUNTS_OF_PROBLEMS,
    "num_easy": Field(_PROBLEMS, "smaller problems, to check on"),
    "easy_size": Field(COUNT, "their size"),
  },
  "evals": {"sets": {ANY: {"size": Field(COUNT, "as problems.size"), **_SET}}},
  "pretrain": {
    "seed": Field(SEED, "of the base model"),
    "batch_size": Field(COUNT, "documents a step"),
    "phases": {
      EACH: {
        "num_steps": Field(COUNT, "of the phase"),
        "learning_rate": Field(RATE, "at its peak"),
        "lesson_share": Field(SHARE, "of documents that are lessons"),
      }
    },
    "optimizer": _OPTIMIZER,
    "warmup_steps": Field(COUNT_OR_NONE, "of each phase"),
  },
}
_PHASES: Section = {
  "checksum": {
    "max_blocks": Field(whole(1, 10), "of a document"),
    "max_window": Field(COUNT, "blocks worked in a lesson, at most"),
    "worked_share": Field(SHARE, "of an exam's blocks"),
    "noise": Field(SHARE, "chance that a running sum is wrong"),
  },
  "countdown_steps": {
    "max_numbers": Field(whole(2, 10), "of a document"),
    "solved_share": Field(SHARE, "of other documents that are solved"),
    "known": Field(COUNT, "numbers left from which on work is solved"),
    "weights": {
      sign: Field(real(0, 1e6, open_low=True), f"of {sign} before that")
      for sign in "+-*"
    },
  },
}
# What tasks have whose problems are rows of files, or are drawn as text.
_ROWS: Section = {
  "problems": {
    "task": Field(NAME, "docs/tasks.md has them"),
    "level": Field(TEXT, "how hard, in the task's own words"),
    "file": Field(TEXT, "in place of the hub; * for several"),
    "split": Field(TEXT, "of the source; empty: the one for training"),
    "name": Field(TEXT, "of the tfds or reasoning-gym data set"),
    "max_number": Field(whole(2), "of countdown"),
    "problem_field": Field(NAME, "of a row, of tasks jsonl and tfds"),
    "answer_field": Field(NAME, "likewise"),
    "answer_pattern": Field(TEXT, "regex; its group 1 is the answer"),
    "id_field": Field(TEXT, "of a row; empty: its number"),
    "start": Field(COUNT_OR_NONE, "rows that are left out before the first"),
    **_COUNTS_OF_PROBLEMS,
    "heldout": {
      "task": Field(TEXT, "of held-out problems; empty: the source's own"),
      "file": Field(TEXT, "likewise"),
      "split": Field(TEXT, "likewise"),
      "level": Field(TEXT, "likewise"),
    },
    "exclude": Field(TEXT, "TASK or TASK=FILE, commas between: not trained"),
    "instruction": Field(TEXT, "the end of every prompt"),
    "hint": Field(
      text_with("prompt", "hint"), "how a prompt with a hint is written"
    ),
    "too_long": Field(one_of("error", "drop"), "what becomes of such prompts"),
    "shown_tests": Field(
      one_of("drop", "keep"), "problems with all tests in their statement"
    ),
  },
  "evals": {
    "sets": {
      ANY: {
        "task": Field(NAME, "docs/tasks.md has them"),
        "level": Field(TEXT, "as problems.level, and so on"),
        "file": Field(TEXT, "in place of the hub; * for several"),
        "split": Field(TEXT, "of the source; empty: the one held out"),
        "name": Field(TEXT, "of the tfds or reasoning-gym data set"),
        "problem_field": Field(NAME, "of a row, of tasks jsonl and tfds"),
        "answer_field": Field(NAME, "likewise"),
        "answer_pattern": Field(TEXT, "regex; its group 1 is the answer"),
        "id_field": Field(TEXT, "of a row; empty: its number"),
        **_SET,
      }
    }
  },
  "pretrain": {},
}


def tree_of(task: str) -> Section:
  """Returns the sections and fields that a config of a task has."""
  if task not in tasks.TASKS:
    return _joined(_COMMON, _ROWS)
  phase = {"pretrain": {"phases": {EACH: _PHASES[task]}}}
  return _joined(_COMMON, _joined(_SYMBOLS, phase))


def leaves(tree: Section, path: str = "") -> Iterator[tuple[str, Field]]:
  """Yields every (dotted path, field)."""
  for name, node in tree.items():
    if isinstance(node, Choice):
      node = node.whole()
    if isinstance(node, Field):
      yield path + name, node
    else:
      yield from leaves(node, f"{path}{name}.")


def find(path: str) -> Field | None:
  """Returns the field of a path, as arms.rl.learning_rate; None: no field."""
  for task in ("", *tasks.TASKS):
    node: Any = tree_of(task)
    for name in path.split("."):
      node = child_of(node, name)
    if isinstance(node, Field):
      return node
  return None


def is_execution(path: str) -> bool:
  """Whether a field changes only how results are computed, not which.

  Args:
    path: dotted, without `config.`; what is no field changes results.
  """
  field = find(path)
  return field is not None and field.execution


def child_of(node: Any, name: str) -> Any:
  """Returns a section's field or section of that name; None: there is none."""
  if isinstance(node, Choice):
    node = node.whole()
  if not isinstance(node, Mapping):
    return None
  return node.get(name, node.get(ANY, node.get(EACH)))


def _joined(one: Section, other: Section) -> Section:
  both = dict(one)
  for name, node in other.items():
    both[name] = _joined(both[name], node) if name in both else node
  return both
