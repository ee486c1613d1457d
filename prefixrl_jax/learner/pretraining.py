"""Makes a task's small base model, from random parameters."""

from collections.abc import Callable, Iterable

import jax
import ml_collections
import numpy as np

from prefixrl_jax.embedded import tasks
from prefixrl_jax.learner import sft
from prefixrl_jax.learner.learner import Learner
from prefixrl_jax.learner.losses import make_loss
from prefixrl_jax.learner.optimizer import make_optimizer
from prefixrl_jax.learner.packing import Layout, Tree
from prefixrl_jax.models import parameters, transformer
from prefixrl_jax.text.tokenizer import Tokenizer, with_stop
from prefixrl_jax.types import NonFiniteError


def pretrain(
  config: ml_collections.ConfigDict,
  model: transformer.TransformerConfig,
  mesh: jax.sharding.Mesh,
  tokenizer: Tokenizer,
  task: str,
  *,
  layout: Layout,
  on_step: Callable[[int, float], None],
) -> dict:
  """Trains on lessons and exams, loss on the completions alone.

  Args:
    config: section `pretrain`.
    model: shape of the transformer.
    mesh: that the parameters are sharded over.
    tokenizer: of the task.
    task: a key of `tasks.TASKS`, which draws the documents.
    layout: has room for a batch of documents.
    on_step: called with (steps done, loss).

  Returns:
    The parameters, as from `transformer.init`, sharded.

  Raises:
    NonFiniteError: at the first step that is not finite.
  """
  own = tasks.TASKS[task]
  rng = np.random.default_rng(config.seed)
  with jax.set_mesh(mesh):
    params = jax.jit(
      lambda key: parameters.init(model, key),
      out_shardings=jax.tree.map(
        lambda x: x.sharding, parameters.abstract_params(model, mesh)
      ),
    )(jax.random.key(config.seed))
    done = 0
    for settings in config.phases:
      settings = dict(settings)
      num_steps = settings.pop("num_steps")
      optimizer = make_optimizer(
        learning_rate=settings.pop("learning_rate"),
        warmup_steps=min(config.warmup_steps, num_steps - 1),
        decay_steps=num_steps,
        **config.optimizer,
      )
      learner = Learner(
        model,
        mesh,
        layout,
        optimizer,
        make_loss("policy_gradient"),
        base_params=None,
        temperature=1.0,
        chunk_length=layout.row_length,
      )
      phase = own.Phase(**settings)
      state = learner.init(params)
      for _ in range(num_steps):
        documents = _encoded(
          (own.make_document(rng, phase) for _ in range(config.batch_size)),
          tokenizer,
        )
        done += 1
        try:
          state, metrics, _ = learner.step(state, documents)
        except NonFiniteError as e:
          raise NonFiniteError(
            f"pretraining, step {done}: {e} Lower the learning_rate of"
            " config.pretrain.phases."
          ) from None
        on_step(done, metrics["loss"])
      params = state.params
  return params


def _encoded(
  documents: Iterable[tuple[str, str]], tokenizer: Tokenizer
) -> list[Tree]:
  """Returns what teaches each (prompt, completion), its end included."""
  prompts, replies = zip(*documents)
  ids = zip(
    tokenizer.encode_prompts(prompts), tokenizer.encode_replies(replies)
  )
  return [
    sft.example(
      np.array(prompt, np.int32),
      np.array(with_stop(tokenizer, reply), np.int32),
    )
    for prompt, reply in ids
  ]
