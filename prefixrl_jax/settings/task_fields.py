"""Fields that depend on the task: problems, and the embedded tasks' models."""

from prefixrl_jax.settings.rules import (
  COUNT,
  COUNT_OR_NONE,
  NAME,
  RATE,
  SEED,
  SHARE,
  SWITCH,
  TEXT,
  one_of,
  real,
  text_with,
  whole,
)
from prefixrl_jax.settings.schema import (
  ANY,
  EACH,
  OPTIMIZER,
  Field,
  Section,
  how,
)

_PROBLEMS = whole(0, 10_000_000)  # drawing more would take hours
_COUNTS_OF_PROBLEMS = {
  "num_train": Field(_PROBLEMS, "problems to train on"),
  "num_heldout": Field(_PROBLEMS, "problems to evaluate on"),
}
_SET = {
  "num_problems": Field(
    _PROBLEMS, "problems of the set; 0: all that there are"
  ),
  "num_samples": Field(
    COUNT_OR_NONE, "completions per problem; 0: evals.num_samples"
  ),
}
# Further fields of tasks with an alphabet of their own.
SYMBOLS: Section = {
  "model": {
    "num_layers": Field(COUNT, "layers of the embedded model"),
    "width": Field(COUNT, "width of the residual stream"),
    "num_heads": Field(COUNT, "query heads"),
    "num_kv_heads": Field(COUNT, "key and value heads; divides num_heads"),
    "head_dim": Field(COUNT, "width of a head; even"),
    "mlp_width": Field(COUNT, "width of an MLP's hidden layer"),
    "vocab_size": Field(
      COUNT, "size of the vocabulary, at least the task's tokens"
    ),
    "mlp": Field(one_of("gelu", "gated_gelu", "gated_silu"), "kind of MLP"),
    "rope_base": Field(
      real(1, 1e30, open_low=True), "base of the rotary embedding"
    ),
    "norm_eps": Field(RATE, "added to the denominator of norms"),
    "tied_head": Field(SWITCH, "whether the head is the embedding"),
    "scan_unroll": how(COUNT, "layers compiled as one block"),
  },
  "problems": {
    "task": Field(NAME, "task; docs/tasks.md lists them"),
    "size": Field(COUNT, "blocks or numbers per problem"),
    **_COUNTS_OF_PROBLEMS,
    "num_easy": Field(_PROBLEMS, "smaller problems, to monitor"),
    "num_easy_train": Field(
      _PROBLEMS, "smaller problems to train on, for arms with an easy_share"
    ),
    "easy_size": Field(COUNT, "size of the smaller problems"),
  },
  "evals": {"sets": {ANY: {"size": Field(COUNT, "as problems.size"), **_SET}}},
  "pretrain": {
    "seed": Field(SEED, "seed for the base model"),
    "batch_size": Field(COUNT, "documents per step"),
    "phases": {
      EACH: {
        "num_steps": Field(COUNT, "steps of the phase"),
        "learning_rate": Field(RATE, "peak learning rate"),
        "lesson_share": Field(SHARE, "share of documents that are lessons"),
      }
    },
    "optimizer": OPTIMIZER,
    "warmup_steps": Field(COUNT_OR_NONE, "warm-up steps of each phase"),
  },
}
_BLOCKS: Section = {
  "max_blocks": Field(whole(1, 10), "maximum blocks of a document"),
  "max_window": Field(COUNT, "maximum blocks worked out in a lesson"),
  "worked_share": Field(SHARE, "share of an exam's blocks that are worked out"),
  "noise": Field(SHARE, "probability that a running sum is wrong"),
}
_CHAINS: Section = {
  **_BLOCKS,
  "slip_share": Field(
    SHARE,
    "share of an exam's guessed blocks that are slips rather than guesses",
  ),
}
PHASES: Section = {
  "checksum": _CHAINS,
  "stories": _BLOCKS,
  "skills": {
    **_CHAINS,
    "worked_share": Field(
      real(0, 1, open_low=True), "share of blocks worked out, of kind A"
    ),
    "rarest_share": Field(
      real(0, 1, open_low=True), "the same, of the last kind"
    ),
  },
  "countdown_steps": {
    "max_numbers": Field(whole(2, 10), "maximum numbers of a document"),
    "solved_share": Field(
      SHARE, "share of the other documents that are solved"
    ),
    "known": Field(COUNT, "numbers left at which the solution is known"),
    "weights": {
      sign: Field(real(0, 1e6, open_low=True), f"weight of {sign} before that")
      for sign in "+-*"
    },
  },
}
# Fields of tasks whose problems are rows of files, or are generated as text.
ROWS: Section = {
  "problems": {
    "task": Field(NAME, "task; docs/tasks.md lists them"),
    "level": Field(TEXT, "difficulty, in the task's own terms"),
    "file": Field(TEXT, "file to use instead of the hub; * for several"),
    "split": Field(TEXT, "split of the source; empty: the one for training"),
    "name": Field(TEXT, "name of the tfds or reasoning-gym data set"),
    "max_number": Field(whole(2), "largest number of countdown"),
    "problem_field": Field(
      NAME, "field of the problem, for tasks jsonl and tfds"
    ),
    "answer_field": Field(NAME, "field of the answer, likewise"),
    "answer_pattern": Field(
      TEXT, "regular expression whose group 1 is the answer"
    ),
    "id_field": Field(TEXT, "field of the id; empty: the row number"),
    "start": Field(COUNT_OR_NONE, "rows to skip at the start"),
    **_COUNTS_OF_PROBLEMS,
    "heldout": {
      "task": Field(TEXT, "task of held-out problems; empty: the source's own"),
      "file": Field(TEXT, "file of held-out problems"),
      "split": Field(TEXT, "split of held-out problems"),
      "level": Field(TEXT, "difficulty of held-out problems"),
    },
    "exclude": Field(
      TEXT, "problems not to train on: TASK or TASK=FILE, commas between"
    ),
    "instruction": Field(TEXT, "text at the end of every prompt"),
    "hint": Field(
      text_with("prompt", "hint"), "how a prompt with a hint is written"
    ),
    "too_long": Field(
      one_of("error", "drop"), "what to do about prompts that are too long"
    ),
    "shown_tests": Field(
      one_of("drop", "keep"),
      "what to do about problems whose statement has all tests",
    ),
  },
  "evals": {
    "sets": {
      ANY: {
        "task": Field(NAME, "task; docs/tasks.md lists them"),
        "level": Field(TEXT, "as problems.level, and so on"),
        "file": Field(TEXT, "file to use instead of the hub; * for several"),
        "split": Field(TEXT, "split of the source; empty: the one held out"),
        "name": Field(TEXT, "name of the tfds or reasoning-gym data set"),
        "problem_field": Field(
          NAME, "field of the problem, for jsonl and tfds"
        ),
        "answer_field": Field(NAME, "field of the answer, likewise"),
        "answer_pattern": Field(
          TEXT, "regular expression whose group 1 is the answer"
        ),
        "id_field": Field(TEXT, "field of the id; empty: the row number"),
        **_SET,
      }
    }
  },
  "pretrain": {},
}
