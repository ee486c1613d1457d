"""Samples, learns and goes on from a checkpoint, on any mesh.

python together.py ADDRESS PROCESS NUM_PROCESSES CHECKPOINTS OUT.npz: as one
process of several, whose devices form one mesh. Started by test_processes.py.
"""

import functools
import sys

import jax
import numpy as np
from etils import epath
from optimizers import plain_adamw
from small_model import MODEL

from prefixrl_jax.checkpoints import Checkpointer
from prefixrl_jax.distributed import sharding
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner.learner import Learner
from prefixrl_jax.learner.losses import make_loss
from prefixrl_jax.learner.packing import Lane, Tree, layout_for
from prefixrl_jax.models import parameters
from prefixrl_jax.rollouts.requests import Request
from prefixrl_jax.rollouts.sampler import Sampler

_TRUNKS = [np.arange(i, 2 * i + 3, dtype=np.int32) % 17 for i in range(5)]


def first_params(mesh):
  where = jax.tree.map(
    lambda x: x.sharding, parameters.abstract_params(MODEL, mesh)
  )
  init = functools.partial(parameters.init, MODEL)
  return jax.jit(init, out_shardings=where)(jax.random.key(3))


def sampled(mesh, params):
  """Tokens and log-probabilities of all completions, in order."""
  sampler = Sampler(
    MODEL,
    mesh,
    rows=4,
    lanes=3,
    trunk_length=8,
    completion_length=6,
    steps_per_dispatch=3,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    stop_tokens=(5,),
  )
  sampler.warm_up(params)
  requests = [Request(trunk, 4, 0, i) for i, trunk in enumerate(_TRUNKS)]
  # Leaves early, with lanes at work; what comes after must not care.
  for finished in sampler.run(
    [[request] for request in requests], purpose="collection", seed=2
  ):
    if finished:
      break
  groups = sampler.sample(requests, purpose="sampling", seed=1)
  completions = [c for group in groups for c in group]
  return {
    "tokens": np.concatenate([c.tokens for c in completions]),
    "logprobs": np.concatenate([c.logprobs for c in completions]),
    "lengths": np.array([len(c.tokens) for c in completions]),
  }


def learner_on(mesh):
  layout = layout_for(
    longest_trunk=8,
    longest_completion=6,
    num_lanes=4,
    num_trees=(0, len(_TRUNKS)),
    row_length=128,
    rows_per_microbatch=4,
  )
  return Learner(
    MODEL,
    mesh,
    layout,
    plain_adamw(eps=1e-3, clip_norm=1.0),
    make_loss("policy_gradient"),
    base_params=None,
    temperature=1.0,
    chunk_length=64,
  )


def trees(seed):
  """What is learned in a step: made up, the same everywhere."""
  rng = np.random.default_rng(seed)

  def lane(trunk, advantage):
    tokens = rng.integers(0, 17, 5).astype(np.int32)
    logprobs = -rng.random(5).astype(np.float32)
    advantages = np.full(5, advantage, np.float32)
    return Lane(len(trunk), tokens, logprobs, advantages)

  return [Tree(t, [lane(t, i - 2.0) for i in range(4)], False) for t in _TRUNKS]


def values(state):
  """All numbers of a state: parameters, the optimizer's, counts."""
  leaves = [sharding.fetch(x).ravel() for x in jax.tree.leaves(state)]
  return np.concatenate([x.astype(np.float64) for x in leaves])


def go_on(learner, checkpoints):
  """Restores step 1, and makes step 2: what is restored and what comes out."""
  with Checkpointer(epath.Path(checkpoints), keep=2) as checkpointer:
    step, state, host = checkpointer.restore_latest(
      lambda _: learner.abstract_state
    )
  assert (step, host) == (1, {"seed": 1})
  restored = values(state)
  state, metrics, _ = learner.step(state, trees(host["seed"]))
  return {"restored": restored, "next": values(state), "loss": metrics["loss"]}


def main(address, process, num_processes, checkpoints, out):
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(address, int(num_processes), int(process))
  mesh = make_mesh(data=2, fsdp=2, tensor=2)
  learner, params = learner_on(mesh), first_params(mesh)
  made = sampled(mesh, params)
  state, _, _ = learner.step(learner.init(params), trees(0))
  made["first"] = values(state)
  np.savez(out, **made, **go_on(learner, checkpoints))


if __name__ == "__main__":
  main(*sys.argv[1:])
