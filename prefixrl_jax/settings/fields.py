"""Every field that a config can have: its possible values and its purpose.

One table, by section. `is_execution` says which fields change only how a result
is computed. checks.py compares a config with the table, validation.py one field
with another.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from prefixrl_jax.embedded import tasks
from prefixrl_jax.rewards.verifiers import VERIFIERS
from prefixrl_jax.settings import task_fields
from prefixrl_jax.settings.learner_fields import LEARNER, LOSSES
from prefixrl_jax.settings.rules import (
  COUNT,
  COUNT_OR_NONE,
  DTYPE,
  NAME,
  PATTERN,
  POSITIVE,
  RATE,
  REPOSITORY,
  SECONDS,
  SEED,
  SHARE,
  SIZE_OF_MESH,
  SWITCH,
  TEXT,
  one_of,
  real,
  several,
  whole,
)
from prefixrl_jax.settings.schema import (
  ANY,
  EACH,
  Choice,
  Field,
  Section,
  Some,
  how,
)

_SAMPLER = {
  "rows": how(COUNT, "prompts sampled at a time"),
  "lanes": how(COUNT, "completions of a prompt sampled at a time"),
}
SCHEDULES = {
  "mixture": {},
  "adaptive": {
    "low": Field(SHARE, "success below which a prefix is lengthened"),
    "high": Field(SHARE, "success above which a prefix is shortened"),
  },
}
# Former names of fields, for configs that were written with them.
_RENAMED = {"wandb_project": "wandb.project"}
_PART = how(COUNT, "problems after which results are saved")

_COMMON: Section = {
  "run_arms": Field(several(NAME), "arms to train, rows of `arms`"),
  "seeds": Field(several(SEED), "seeds for everything random; one run each"),
  "fresh_data_per_seed": Field(
    SWITCH, "whether each seed has problems and traces of its own"
  ),
  "wandb": {
    "project": how(TEXT, "Weights & Biases project to log to; empty: none"),
    "mode": how(
      one_of("", "online", "offline"), "of logging; empty: that of WANDB_MODE"
    ),
    "name": how(TEXT, "beginning of the runs' names there"),
    "group": how(TEXT, "group of the runs there; empty: none"),
    "resume": how(
      SWITCH, "whether a resumed run goes on in the same one there"
    ),
  },
  "profile": {
    "steps": how(
      several(COUNT, may_be_empty=True),
      "steps of each run to profile; see docs/profiling.md",
    ),
  },
  "mesh": {
    "data": how(SIZE_OF_MESH, "replicas of the parameters; -1: the rest"),
    "fsdp": how(SIZE_OF_MESH, "shards of parameters and batch; -1: the rest"),
    "tensor": how(SIZE_OF_MESH, "devices that share a layer; -1: the rest"),
    "expert": how(SIZE_OF_MESH, "devices that share experts; -1: the rest"),
  },
  "model": {
    "folder": Field(TEXT, "Hugging Face folder or ORGANISATION/MODEL[@REV]"),
    "base": Field(TEXT, "base model of an embedded task; empty: pretrain one"),
    "dtype": Field(DTYPE, "type of activations"),
    "param_dtype": Field(DTYPE, "type of the trained parameters"),
    "remat": how(
      one_of("none", "full", "auto"),
      "what the backward pass recomputes; auto: as memory requires",
    ),
  },
  "problems": {
    "function": Field(
      TEXT, "FILE.py:NAME of a function of problems; see docs/own_tasks.md"
    ),
  },
  "rewards": {
    "verifier": Field(
      one_of("", *VERIFIERS), "verifier; empty: the task's own"
    ),
    "function": Field(
      TEXT, "FILE.py:NAME of a reward function; see docs/own_tasks.md"
    ),
    "num_workers": how(whole(0, 4096), "processes that judge; 0: one per core"),
    "timeout_seconds": how(
      SECONDS, "time limit for a comparison or one test of a program"
    ),
    "total_seconds": how(SECONDS, "time limit for all tests of a program"),
    "memory_mb": Field(
      whole(64), "memory limit for a program; Python itself needs 20"
    ),
    "sandbox": Field(
      one_of("bubblewrap", "unsafe_subprocess"),
      "how programs are isolated; the second only inside your own container",
    ),
    "partial": Field(SWITCH, "whether the reward is the share of tests passed"),
  },
  "screen": {
    "num_samples": Field(COUNT, "completions per problem"),
    "max_correct": Field(
      COUNT_OR_NONE, "correct ones at most for a problem to be hard"
    ),
    **_SAMPLER,
    "problems_per_part": _PART,
  },
  "collect": {
    "budget": Field(COUNT, "maximum attempts per hard problem"),
    "traces_per_problem": Field(
      COUNT, "maximum correct traces kept per problem"
    ),
    **_SAMPLER,
    "problems_per_part": _PART,
  },
  "traces": {
    "file": Field(TEXT, "file of other people's traces, or rules:TASK"),
    "model": Field(TEXT, "who wrote the traces, if no column says so"),
    "problem_field": Field(TEXT, "column of the problem; empty: guessed"),
    "id_field": Field(TEXT, "column of the problem's id; empty: guessed"),
    "text_field": Field(TEXT, "column of the trace; empty: guessed"),
    "reasoning_field": Field(TEXT, "column of the reasoning; empty: guessed"),
    "model_field": Field(TEXT, "column of the writer; empty: guessed"),
    "finish_field": Field(TEXT, "column of the finish reason; empty: guessed"),
    "verdict_field": Field(TEXT, "column of the verdict; empty: guessed"),
  },
  "prefixes": {
    "num_cuts": Field(COUNT, "prefixes cut from each trace"),
    "low": Field(SHARE, "shortest prefix, as a share of its trace"),
    "high": Field(SHARE, "longest prefix, as a share of its trace"),
  },
  "rollouts": {
    "max_prompt_length": Field(COUNT, "maximum tokens of a prompt"),
    "max_completion_length": Field(COUNT, "maximum tokens of a completion"),
    "steps_per_dispatch": how(
      COUNT, "decode steps between two syncs with the host"
    ),
    "temperature": Field(real(0.01, 100), "sampling temperature in training"),
    "top_k": Field(COUNT_OR_NONE, "top-k sampling; 0: off; biases the ratio"),
    "top_p": Field(RATE, "top-p sampling; 1: off; biases the ratio"),
  },
  "learner": LEARNER,
  "sft": {
    "batch_size": Field(COUNT, "traces per step"),
    "learning_rate": Field(RATE, "peak learning rate"),
  },
  "arms": {
    ANY: {
      "prefixed_share": Field(
        SHARE, "share of a step's problems that have a prefix"
      ),
      "easy_share": Field(
        SHARE, "share of a step's problems that are not hard"
      ),
      "given": Field(
        one_of("prefix", "hint"),
        "whether a prefix begins the answer or stands in the prompt",
      ),
      "group_size": Field(
        COUNT_OR_NONE,
        "completions and traces per problem; 0: train.completions_per_prompt",
      ),
      "trace_lanes": Field(COUNT_OR_NONE, "whole traces in each group"),
      "sft_epochs": Field(
        COUNT_OR_NONE, "epochs of SFT on the traces, before RL"
      ),
      "learning_rate": Field(RATE, "peak learning rate of RL"),
      "schedule": Choice(
        SCHEDULES, "schedule of prefixes: see prefixes/schedules.py"
      ),
      "loss": Choice(LOSSES, "loss of the update: see learner/losses.py"),
      "learner": Some(LEARNER),
    }
  },
  "train": {
    "flops": Field(
      POSITIVE, "FLOPs that each arm may spend, as the paper counts"
    ),
    "max_steps": Field(
      COUNT_OR_NONE, "maximum steps of RL; 0: as the budget allows"
    ),
    "prompts_per_step": Field(
      COUNT, "problems per step, prefixed and original"
    ),
    "rows": how(COUNT_OR_NONE, "prompts sampled at a time; 0: all"),
    "cuts_together": Field(SWITCH, "whether a step has all cuts of a trace"),
    "completions_per_prompt": Field(
      whole(2), "completions per prompt; their mean is the baseline"
    ),
    "checkpoint_every": how(COUNT, "steps between two checkpoints"),
    "checkpoints_kept": how(
      COUNT, "how many of the newest checkpoints are kept"
    ),
    "rollouts_kept": {
      "share": how(SHARE, "share of groups whose rollouts are kept; 0: none"),
      "max_megabytes": how(
        COUNT, "megabytes of a run's rollouts; above that, thinned"
      ),
    },
    "log_every": how(COUNT, "steps between two lines on the terminal"),
  },
  "evals": {
    **_SAMPLER,
    "temperature": Field(real(0, 100), "final sampling temperature; 0: greedy"),
    "num_samples": Field(
      COUNT, "completions per problem in the final evaluation"
    ),
    "final_problems": Field(
      COUNT_OR_NONE, "maximum problems per split; 0: all"
    ),
    "fractions": Field(
      several(real(0, 1, open_low=True, open_high=True), may_be_empty=True),
      "shares of a trace to reveal; 0 is always evaluated",
    ),
    "fraction_samples": Field(COUNT, "completions per problem at each share"),
    "curve_points": Field(COUNT, "evaluations during training"),
    "curve_temperature": Field(real(0, 100), "temperature of these; 0: greedy"),
    "curve_samples": Field(COUNT, "completions per problem at each of these"),
    "curve_problems": Field(
      COUNT_OR_NONE, "maximum problems per split; 0: all"
    ),
    "marker": Field(
      PATTERN, "completions that contain it are counted; empty: the task's own"
    ),
    "run_sets": Field(TEXT, "rows of `sets` to evaluate on, + between"),
  },
  "lora": {
    "rank": Field(
      COUNT_OR_NONE, "rank of the adapters; 0: all weights are trained"
    ),
    "alpha": Field(POSITIVE, "adapters are scaled by alpha / rank"),
    "targets": Field(NAME, "all, or attention, mlp or names, joined by +"),
  },
  "export": {
    "lora": how(
      one_of("merged", "peft"), "adapters merged into the weights, or alone"
    ),
    "arm": how(TEXT, "arm to export; empty: the first of run_arms"),
    "seed": how(whole(-1), "seed to export; -1: the first of seeds"),
    "step": how(whole(-1), "step of the checkpoint; -1: the last"),
    "directory": how(TEXT, "where to write; empty: export/ARM/seed_N/model"),
    "hub": how(
      REPOSITORY, "ORGANISATION/NAME on the Hugging Face hub to push it to"
    ),
    "dtype": how(
      one_of("", "float32", "bfloat16"),
      "type of the weights; empty: param_dtype",
    ),
    "shard_gigabytes": how(POSITIVE, "maximum size of a weight file"),
  },
}


def tree_of(task: str) -> Section:
  """Returns the sections and fields that a config of a task has."""
  if task not in tasks.TASKS:
    return _joined(_COMMON, task_fields.ROWS)
  phase = {"pretrain": {"phases": {EACH: task_fields.PHASES[task]}}}
  return _joined(_COMMON, _joined(task_fields.SYMBOLS, phase))


def leaves(tree: Section, path: str = "") -> Iterator[tuple[str, Field]]:
  """Yields every (dotted path, field)."""
  for name, node in tree.items():
    if isinstance(node, Choice):
      node = node.whole()
    if isinstance(node, Some):
      continue  # the fields are those of another section
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


def new_name(path: str) -> str | None:
  """Returns what a field is called now; None: it never had another name.

  Args:
    path: dotted, without `config.`.
  """
  return _RENAMED.get(path)


def is_execution(path: str) -> bool:
  """Whether a field changes only how results are computed, not which.

  Args:
    path: dotted, without `config.`; what is not a field changes results.
  """
  field = find(path)
  return field is not None and field.execution


def child_of(node: Any, name: str) -> Any:
  """Returns a section's field or section of that name; None: there is none."""
  if isinstance(node, Choice):
    node = node.whole()
  if isinstance(node, Some):
    node = node.named({name})
  if not isinstance(node, Mapping):
    return None
  return node.get(name, node.get(ANY, node.get(EACH)))


def _joined(one: Section, other: Section) -> Section:
  both = dict(one)
  for name, node in other.items():
    both[name] = _joined(both[name], node) if name in both else node
  return both
