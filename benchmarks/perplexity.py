"""Teacher-forced perplexity of a Hugging Face folder on a JSONL's text.

  python -m benchmarks.perplexity --folder=MODEL --file=PROBLEMS.jsonl

A quick proof that weights were imported right: mixed-up rotary halves alone
raise a language model's perplexity by an order of magnitude.
"""

import functools
import json

import jax
import numpy as np
from absl import app, flags
from etils import epath

from prefixrl_jax.distributed import sharding
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner import sft
from prefixrl_jax.learner.logprobs import action_logprobs
from prefixrl_jax.learner.packing import Layout, pack
from prefixrl_jax.metrics import Progress
from prefixrl_jax.models import importing
from prefixrl_jax.session import round_up
from prefixrl_jax.tokenizer import load_tokenizer

_FOLDER = flags.DEFINE_string("folder", None, "Model folder.", required=True)
_FILE = flags.DEFINE_string("file", None, "JSONL file.", required=True)
_FIELDS = flags.DEFINE_list(
  "fields", ["problem"], "Fields whose texts are joined by a line break."
)
_NUM = flags.DEFINE_integer("num", 200, "Lines that are read.")
_ROWS = flags.DEFINE_integer("rows", 8, "Texts in a batch.")


def main(argv) -> None:
  """Prints the perplexity per token, all texts weighted by their tokens."""
  del argv
  mesh = make_mesh(data=1, fsdp=-1, tensor=1)
  folder = epath.Path(_FOLDER.value)
  tokenizer = load_tokenizer(folder)
  config = importing.read_config(
    folder, dtype="float32", param_dtype="float32", remat="none"
  )
  params = importing.load_params(folder, config, mesh)
  with epath.Path(_FILE.value).open() as file:
    rows = [json.loads(line) for line, _ in zip(file, range(_NUM.value))]
  texts = [
    np.array(
      tokenizer.encode("\n".join(row[f] for f in _FIELDS.value)), np.int32
    )
    for row in rows
  ]
  texts.sort(key=len)
  # The first token of a text is given; each other one is predicted.
  layout = Layout(1, 1, round_up(len(texts[-1]) - 1, 8))
  score = jax.jit(
    functools.partial(
      action_logprobs,
      config,
      trunk_length=layout.trunk_length,
      num_lanes=1,
      temperature=1.0,
      chunk_length=64,
    )
  )
  total, count = 0.0, 0
  with Progress("perplexity", total=len(texts)) as progress:
    for i in range(0, len(texts), _ROWS.value):
      some = texts[i : i + _ROWS.value]
      batch = pack(
        [sft.example(t[:1], t[1:]) for t in some],
        layout,
        _ROWS.value,
        num_rows=_ROWS.value,
      )
      batch = sharding.put_rows(mesh, jax.tree.map(lambda x: x[0], batch))
      with jax.set_mesh(mesh):
        logprobs, _ = score(params, batch)
      total -= float(logprobs.sum())
      count += sum(len(t) - 1 for t in some)
      progress.update(i + len(some))
  print(
    f"perplexity {np.exp(total / count):.2f} of {count} tokens in"
    f" {len(texts)} texts"
  )


if __name__ == "__main__":
  app.run(main)
