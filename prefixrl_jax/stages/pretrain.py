"""A small base model for a task of ours, unless one is given."""

from prefixrl_jax.distributed import backends
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner.packing import layout_for
from prefixrl_jax.learner.pretraining import pretrain
from prefixrl_jax.models import base_file, parameters
from prefixrl_jax.run import memory_plan
from prefixrl_jax.run.inputs import own_tokenizer
from prefixrl_jax.run.session import demo_model
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.storage import metrics


def run(work: Workspace) -> None:
  """Makes a small base model for a task of ours, unless one is given."""
  c = work.config
  if c.model.folder or c.model.base:
    return
  artifact = work.pretrained
  if work.done(artifact, "pretrain"):
    return
  steps = sum(dict(p)["num_steps"] for p in c.pretrain.phases)
  mesh = make_mesh(**c.mesh)
  backends.of_mesh(mesh).keep_float32(c.model.dtype)
  model, rows_per_microbatch = memory_plan.fit(
    c, demo_model(c.model), mesh, work.console.print
  )
  work.begin(artifact)
  with metrics.Progress("pretrain", total=steps) as progress:
    params = pretrain(
      c.pretrain,
      model,
      mesh,
      own_tokenizer(c.problems.task),
      c.problems.task,
      layout=layout_for(
        longest_trunk=c.rollouts.max_prompt_length,
        longest_completion=c.rollouts.max_completion_length,
        num_lanes=1,
        num_trees=(0, c.pretrain.batch_size),
        row_length=c.learner.row_length,
        rows_per_microbatch=rows_per_microbatch,
      ),
      on_step=lambda step, loss: progress.update(step, loss=f"{loss:.3f}"),
    )
  base_file.save(work.base_file(), params)
  artifact.finish(
    {"weight_hash": parameters.weight_hash(params)}, [work.base_file().name]
  )
