"""Teacher-forced perplexity of a Hugging Face folder on a JSONL's text.

  python -m benchmarks.perplexity --folder=MODEL --file=PROBLEMS.jsonl

A quick proof that weights were imported right: mixed-up rotary halves alone
raise a language model's perplexity by an order of magnitude.
"""

import json

import jax
import numpy as np
from absl import flags
from etils import epath

from benchmarks import measuring
from prefixrl_jax.distributed import sharding
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner import sft
from prefixrl_jax.learner.logprobs import action_logprobs
from prefixrl_jax.learner.packing import layout_for, pack
from prefixrl_jax.models import importing, tree_attention
from prefixrl_jax.storage.metrics import Progress
from prefixrl_jax.text.tokenizer import load_tokenizer

_FOLDER = flags.DEFINE_string("folder", None, "Model folder.", required=True)
_FILE = flags.DEFINE_string("file", None, "JSONL file.", required=True)
_FIELDS = flags.DEFINE_list(
  "fields", ["problem"], "Fields whose texts are joined by a line break."
)
_NUM = flags.DEFINE_integer("num", 200, "Lines that are read.")
_WINDOW = flags.DEFINE_integer("window", 1024, "Tokens a window has.")
_ROWS = flags.DEFINE_integer("rows", 2, "Windows in a batch.")


def main() -> None:
  """Prints the perplexity of the texts, joined by blank lines, in windows."""
  mesh = make_mesh(data=1, fsdp=-1, tensor=1)
  folder = epath.Path(_FOLDER.value)
  tokenizer = load_tokenizer(folder)
  config = importing.read_config(
    folder, dtype="float32", param_dtype="float32", remat="none"
  )
  params = importing.load_weights(folder, config, mesh)
  with epath.Path(_FILE.value).open() as file:
    rows = [json.loads(line) for line, _ in zip(file, range(_NUM.value))]
  texts = ["\n".join(row[f] for f in _FIELDS.value) for row in rows]
  tokens = np.array(tokenizer.encode("\n\n".join(texts)), np.int32)
  windows = [
    tokens[i : i + _WINDOW.value]
    for i in range(0, len(tokens) - 1, _WINDOW.value)
  ]
  layout = layout_for(
    longest_trunk=1,
    longest_completion=_WINDOW.value - 1,
    num_lanes=1,
    num_trees=(0, _ROWS.value),
    row_length=_WINDOW.value,
    rows_per_microbatch=_ROWS.value,
  )

  @jax.jit
  def score(params, rows):
    attend, _ = tree_attention.for_layers(config, rows)
    return action_logprobs(
      config,
      params,
      rows=rows,
      temperature=1.0,
      chunk_length=64,
      attend=attend,
    )

  total, count = 0.0, 0
  with Progress("perplexity", total=len(windows)) as progress:
    for i in range(0, len(windows), _ROWS.value):
      some = windows[i : i + _ROWS.value]
      # The first token of a window is given; each other one is predicted.
      batch = pack([sft.example(w[:1], w[1:]) for w in some], layout)
      batch = sharding.put_rows(mesh, jax.tree.map(lambda x: x[0], batch))
      with jax.set_mesh(mesh):
        logprobs, *_ = score(params, batch)
      total -= float(logprobs.sum())
      count += sum(len(w) - 1 for w in some)
      progress.update(i + len(some))
  print(
    f"perplexity {np.exp(total / count):.2f} of {count} tokens in"
    f" {len(windows)} windows"
  )


if __name__ == "__main__":
  measuring.run(main)
