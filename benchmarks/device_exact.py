"""Is what a device computes right? Beside dense float32 on the host's CPU."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import ours, shapes
from benchmarks.device_work import Recorder
from prefixrl_jax.distributed import backends, sharding
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner import update
from prefixrl_jax.learner.losses import make_loss
from prefixrl_jax.learner.packing import Lane, Layout, Tree, pack
from prefixrl_jax.models import (
  attention,
  parameters,
  transformer,
  tree_attention,
)
from prefixrl_jax.models.transformer import TransformerConfig
from prefixrl_jax.rollouts.requests import Request

_DEMO_SECONDS = 140  # less than its part's limit, so that it can say so


@dataclasses.dataclass(frozen=True)
class _Work:
  """Two forks of each trunk are sampled from and learned from."""

  config: TransformerConfig
  trunk_length: int
  forks: tuple[int, int]
  lanes: int  # of a fork
  completion_length: int
  num_trunks: int = 2

  @property
  def row_length(self) -> int:
    lanes = len(self.forks) * self.lanes
    return self.trunk_length + lanes * self.completion_length


def _work(small: bool) -> _Work:
  config = dataclasses.replace(
    shapes.QWEN3,
    num_layers=4,
    width=512,
    num_heads=8,
    num_kv_heads=4,
    head_dim=64,
    mlp_width=1536,
    vocab_size=4096,
  )
  if not small:
    return _Work(config, 384, (384, 130), 4, 160)
  config = dataclasses.replace(
    config, num_layers=2, width=64, head_dim=16, mlp_width=96, vocab_size=128
  )
  return _Work(config, 40, (40, 13), 2, 12)


def relative_error(x: Any, exact: Any) -> float:
  """Returns the norm of the difference over that of what is exact; trees."""
  square = lambda tree: sum(
    np.sum(np.square(np.asarray(a, np.float64))) for a in jax.tree.leaves(tree)
  )
  difference = jax.tree.map(
    lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), x, exact
  )
  return float(np.sqrt(square(difference) / square(exact)))


def exact_float32(record: Recorder, small: bool) -> None:
  """Records errors of a float32 model, as the program computes it."""
  backends.current_backend().keep_float32("float32")
  _exact(record, small, "float32")


def exact_tf32(record: Recorder, small: bool) -> None:
  """Records errors of a float32 model by JAX's default: TF32 on GPU."""
  _exact(record, small, "float32")


def exact_bfloat16(record: Recorder, small: bool) -> None:
  """Records errors of a bfloat16 model."""
  _exact(record, small, "bfloat16")


def _exact(record: Recorder, small: bool, dtype: str) -> None:
  """Records how far attention, sampler and update are from the reference."""
  precision = jax.config.values["jax_default_matmul_precision"] or "default"
  for check in (_sampler_and_update, _attention):
    for figures in check(_work(small), dtype):
      record(dtype=dtype, precision=precision, **figures)


def _attention(work: _Work, dtype: str) -> Iterator[dict[str, Any]]:
  """Yields the errors of attention over a packed row and of its gradients."""
  config, length = work.config, work.row_length
  rng = np.random.default_rng(0)
  draw = lambda heads: rng.standard_normal(
    (1, length, heads, config.head_dim), np.float32
  )
  heads = config.num_heads, config.num_kv_heads
  q, k, v, d_out = map(draw, (heads[0], heads[1], heads[1], heads[0]))
  # What comes in is the same for both: rounded before.
  rounded = [np.asarray(jnp.asarray(x, dtype)) for x in (q, k, v, d_out)]
  nothing = np.zeros(work.trunk_length, np.int32)
  lanes = [[nothing[: work.completion_length]] * work.lanes] * 2
  rows = jax.tree.map(
    lambda x: x[0],
    pack(
      [_tree(work, nothing, lanes)],
      Layout(length, 1, 1),
    ),
  )

  def with_gradients(attend):
    def run(q, k, v, d_out):
      out, back = jax.vjp(attend, q, k, v)
      return out, *back(d_out)

    return jax.jit(run)

  schedule = jax.jit(tree_attention.block_schedule)(rows)
  ours_ = with_gradients(
    functools.partial(tree_attention.attend, rows, schedule)
  )
  found = ours_(*rounded)
  with _on_cpu() as cpu:
    mask = attention.visible(*attention.places_of(rows))
    dense = with_gradients(
      lambda q, k, v: attention.dense_attention(q, k, v, mask)
    )
    put = [jax.device_put(x.astype(np.float32), cpu) for x in rounded]
    expected = dense(*put)
  errors = map(relative_error, found, expected)
  yield {
    "name": "attention",
    "row_length": length,
    **dict(zip(("out", "d_query", "d_key", "d_value"), errors)),
  }


def _tree(work: _Work, trunk, tokens, logprobs=None) -> Tree:
  """Returns a trunk's tree; tokens, logprobs: fork by fork, lane by lane."""
  rng = np.random.default_rng(1)
  lanes = []
  for i, (fork, own) in enumerate(zip(work.forks, tokens)):
    for j, one in enumerate(own):
      behavior = np.zeros(len(one)) if logprobs is None else logprobs[i][j]
      advantage = np.full(len(one), rng.normal(), np.float32)
      lanes.append(Lane(fork, one, behavior.astype(np.float32), advantage))
  return Tree(trunk, lanes, False)


@contextlib.contextmanager
def _on_cpu() -> Iterator[jax.Device]:
  """Computes on the host's processor, products of float32 in float32."""
  [cpu, *_] = jax.devices("cpu")
  with jax.default_device(cpu), jax.default_matmul_precision("highest"):
    yield cpu


def _sampler_and_update(work: _Work, dtype: str) -> Iterator[dict[str, Any]]:
  """Yields errors of log-probabilities as sampled and learned, of gradients."""
  config = dataclasses.replace(work.config, dtype=dtype)
  weights = shapes.random_params(work.config)
  mesh = make_mesh(data=1, devices=jax.devices()[:1])
  params = parameters.put_params(config, mesh, weights)
  trees = _sampled(config, work, mesh, params)
  logprobs, gradients = _reference(work, weights, trees)
  gap = [
    np.abs(lane.logprobs - exact)
    for lane, exact in zip(_lanes(trees), logprobs)
  ]
  yield {
    "name": "sampler",
    "logprob_error_max": float(np.max(gap)),
    "logprob_error_mean": float(np.mean(gap)),
  }
  # The learner says how far its log-probabilities are from those given.
  learn = _learner(config, work, mesh, params)
  learned, on_policy = learn(trees)
  _, against_exact = learn(_with_logprobs(trees, logprobs))
  yield {
    "name": "update",
    "row_length": work.row_length,
    "logprob_error_max": float(against_exact["logprob_gap_max"]),
    "logprob_error_mean": float(against_exact["logprob_gap"]),
    "gap_to_sampler_max": float(on_policy["logprob_gap_max"]),
    "gap_to_sampler_mean": float(on_policy["logprob_gap"]),
    "gradient_error": relative_error(learned, gradients),
  }


def _lanes(trees: list[Tree]) -> list[Lane]:
  return [lane for tree in trees for lane in tree.lanes]


def _with_logprobs(trees: list[Tree], logprobs) -> list[Tree]:
  """Returns the trees as if they had been sampled with these, lane by lane."""
  left = iter(np.asarray(logprobs))
  return [
    dataclasses.replace(
      tree,
      lanes=[dataclasses.replace(x, logprobs=next(left)) for x in tree.lanes],
    )
    for tree in trees
  ]


def _sampled(config, work: _Work, mesh, params) -> list[Tree]:
  """Returns trees of what the sampler draws, with its log-probabilities."""
  sampler = ours.make_sampler(
    config,
    mesh,
    rows=work.num_trunks,
    lanes=len(work.forks) * work.lanes,
    trunk_length=work.trunk_length,
    completion_length=work.completion_length,
    steps_per_dispatch=32,
  )
  sampler.load(params)
  lengths = (1,) * work.num_trunks
  unit = ours.Unit(work.num_trunks, 1, work.trunk_length, lengths)
  trunks = ours.trunks_of(config, unit)
  found = sampler.sample(
    [
      Request(trunk[:fork], work.lanes, 0, 2 * i + j)
      for i, trunk in enumerate(trunks)
      for j, fork in enumerate(work.forks)
    ],
    purpose="sampling",
    seed=0,
  )
  return [
    _tree(
      work,
      trunk,
      [[c.tokens for c in group] for group in groups],
      [[c.logprobs for c in group] for group in groups],
    )
    for trunk, *groups in zip(trunks, found[::2], found[1::2])
  ]


def _reference(work: _Work, weights, trees: list[Tree]):
  """Every lane as a sequence of its own, plainly masked, on the CPU.

  Args:
    work: whose config has float32 activations.
    weights: of numpy.
    trees: what was sampled.

  Returns:
    log-probabilities [lanes, C], and the gradient of the mean loss.
  """
  length = work.trunk_length + work.completion_length
  lanes = [(tree.trunk, lane) for tree in trees for lane in tree.lanes]
  tokens = np.zeros((len(lanes), length), np.int32)
  for row, (trunk, lane) in zip(tokens, lanes):
    own = np.concatenate([trunk[: lane.fork], lane.tokens])
    row[: len(own)] = own
  forks = np.array([lane.fork for _, lane in lanes])
  targets = np.stack([lane.tokens for _, lane in lanes])
  with _on_cpu() as cpu:
    (_, logprobs), gradients = _dense(work.config)(
      jax.device_put(weights, cpu),
      tokens,
      forks[:, None] - 1 + np.arange(work.completion_length),
      targets,
      np.stack([lane.advantages for _, lane in lanes]),
    )
    return jax.device_get((logprobs, gradients))


@functools.cache
def _dense(config: TransformerConfig):
  """Returns the reference's loss and log-probabilities, and its gradient."""

  def loss(params, tokens, predictors, targets, advantages):
    length = tokens.shape[1]
    mask = jnp.tri(length, dtype=bool)[None]
    hidden, _ = transformer.forward(
      config,
      params,
      tokens,
      jnp.broadcast_to(jnp.arange(length), tokens.shape),
      lambda q, k, v, _: attention.dense_attention(q, k, v, mask),
    )
    hidden = jnp.take_along_axis(hidden, predictors[..., None], axis=1)
    scores = jax.nn.log_softmax(transformer.logits(config, params, hidden))
    logprobs = jnp.take_along_axis(scores, targets[..., None], -1)[..., 0]
    return -jnp.sum(advantages * logprobs) / targets.size, logprobs

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def _learner(config, work: _Work, mesh, params):
  """Returns what takes trees to an update's gradient, and its metrics.

  The update is the one that is shipped, with plain descent at so high a rate
  that nothing but the gradient is left.
  """
  rate = 2.0**24
  optimizer = optax.sgd(rate)
  state = update.abstract_state(
    parameters.abstract_params(config, mesh), optimizer
  )
  init = update.make_init(optimizer, state)
  step = update.make_update(
    config,
    optimizer,
    state,
    make_loss("policy_gradient"),
    temperature=1.0,
    chunk_length=ours.CHUNK_LENGTH,
  )
  layout = Layout(work.row_length, work.num_trunks, 1)

  def learn(trees: list[Tree]):
    with jax.set_mesh(mesh):
      batch = sharding.put_rows(mesh, pack(trees, layout), axis=1)
      end, metrics = step(init(params), batch, None)
    gradient = jax.tree.map(
      lambda a, b: (np.asarray(a, np.float64) - np.asarray(b)) / rate,
      params,
      end.params,
    )
    return gradient, metrics

  return learn


def demo(record: Recorder, small: bool) -> None:
  """Runs the tiny demo from start to report, with the gap that it measures."""
  arms = "prefixrl" if small else "rl+prefixrl"
  with tempfile.TemporaryDirectory() as workdir:
    command = [sys.executable, "-m", "prefixrl_jax.main"]
    command += [f"--config=configs/demo.py:tiny=true,arms={arms}"]
    exit_code = None  # it took too long
    with contextlib.suppress(subprocess.TimeoutExpired):
      exit_code = subprocess.run(
        [*command, f"--workdir={workdir}"], check=False, timeout=_DEMO_SECONDS
      ).returncode
    metrics = pathlib.Path(workdir) / "train/prefixrl/seed_0/metrics.jsonl"
    rows = []
    if metrics.exists():
      rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    gaps = [r["train/logprob_gap_max"] for r in rows if "time/update" in r]
    record(
      precision=os.environ.get("JAX_DEFAULT_MATMUL_PRECISION", "as shipped"),
      exit_code=exit_code,
      has_report=(pathlib.Path(workdir) / "report/summary.json").exists(),
      steps=len(gaps),
      logprob_gap_max=max(gaps, default=None),
    )
