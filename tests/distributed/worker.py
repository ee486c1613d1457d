"""One process of a cluster: samples, updates, writes what came out.

python worker.py ADDRESS PROCESS NUM_PROCESSES OUT.npz, with the devices of all
processes forming one mesh. Started by test_processes.py.
"""

import functools
import sys

import jax
import numpy as np
from optimizers import plain_adamw

from prefixrl_jax.distributed import sharding
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner import update
from prefixrl_jax.learner.losses import make_loss
from prefixrl_jax.learner.packing import Lane, Tree, layout_for, pack
from prefixrl_jax.models import parameters, transformer
from prefixrl_jax.rollouts.requests import Request
from prefixrl_jax.rollouts.sampler import Sampler

MODEL = transformer.TransformerConfig(
  num_layers=2,
  width=24,
  num_heads=6,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=40,
  vocab_size=17,
)


def _sample(sampler):
  """Returns (tokens, logprobs) of all completions, in order."""
  rng = np.random.default_rng(0)
  trunks = [rng.integers(0, 17, 2 + i % 5).astype(np.int32) for i in range(5)]
  requests = [Request(trunk, 4, 0, i) for i, trunk in enumerate(trunks)]
  # Leaves early, with lanes at work; what comes after must not care.
  for finished in sampler.run(
    [[request] for request in requests], purpose="collection", seed=2
  ):
    if finished:
      break
  groups = sampler.sample(requests, purpose="sampling", seed=1)
  return trunks, groups


def main(address, process, num_processes, file):
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  if int(num_processes) > 1:
    jax.distributed.initialize(address, int(num_processes), int(process))
  mesh = make_mesh(data=2, fsdp=2, tensor=1)
  where = jax.tree.map(
    lambda x: x.sharding, parameters.abstract_params(MODEL, mesh)
  )
  params = jax.jit(
    functools.partial(parameters.init, MODEL), out_shardings=where
  )(jax.random.key(3))
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
  trunks, groups = _sample(sampler)
  trees = [
    Tree(
      trunk,
      [
        Lane(len(trunk), c.tokens, c.logprobs, np.full(len(c.tokens), i - 2.0))
        for i, c in enumerate(group)
      ],
      False,
    )
    for trunk, group in zip(trunks, groups)
  ]
  optimizer = plain_adamw(eps=1e-3, clip_norm=1.0)
  abstract = update.abstract_state(params, optimizer)
  layout = layout_for(
    longest_trunk=8,
    longest_completion=6,
    num_lanes=4,
    num_trees=(0, len(trees)),
    row_length=128,
    rows_per_microbatch=4,
  )
  step = update.make_update(
    MODEL,
    optimizer,
    abstract,
    make_loss("policy_gradient"),
    temperature=1.0,
    chunk_length=64,
  )
  with jax.set_mesh(mesh):
    batch = sharding.put_rows(mesh, pack(trees, layout), axis=1)
    state = update.make_init(optimizer, abstract)(params)
    state, metrics = step(state, batch, None)
    whole = jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))
    leaves = [np.asarray(x) for x in jax.tree.leaves(whole(state.params))]
  completions = [c for group in groups for c in group]
  np.savez(
    file,
    tokens=np.concatenate([c.tokens for c in completions]),
    logprobs=np.concatenate([c.logprobs for c in completions]),
    lengths=np.array([len(c.tokens) for c in completions]),
    loss=np.asarray(metrics["loss"]),
    params=np.concatenate([x.ravel() for x in leaves]),
  )


if __name__ == "__main__":
  main(*sys.argv[1:])
