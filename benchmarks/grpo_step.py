"""How fast a whole GRPO step is, next to TRL's trainer.

  python -m benchmarks.grpo_step --peer=trl

A step: 8 prompts of 32 tokens, 8 completions of 64 new tokens each, a reward
that costs nothing, advantages divided by the group's deviation, one AdamW
update. Both sides keep nothing between steps but their parameters; neither
has a KL term. One core: put `taskset -c 0` before it.

`--first_step=NAME` instead takes one step of one side and ends; it is what
`benchmarks.startup` starts.
"""

import functools
import os
import threading
from collections.abc import Callable

import jax
import numpy as np
from absl import flags

from benchmarks import measuring, shapes

_MODEL = flags.DEFINE_enum("model", "tiny", list(shapes.MODELS), "Model.")
_PEER = flags.DEFINE_enum("peer", "none", ["none", "trl"], "Compare with.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed steps of each.", 3)
_JSON = measuring.define_json()
_FIRST_STEP = flags.DEFINE_enum(
  "first_step", None, ["prefixrl_jax", "trl"], "Take one step and end."
)

NUM_PROMPTS = 8
GROUP = 8
PROMPT_LENGTH = 32
NEW_TOKENS = 64
LEARNING_RATE = 1e-6
FIRST_STEP_DONE = "first step done"


def _prompts(config) -> np.ndarray:
  rng = np.random.default_rng(0)
  return rng.integers(3, config.vocab_size, (NUM_PROMPTS, PROMPT_LENGTH))


def _reward(tokens) -> float:
  """Half of all tokens are even, so groups have a signal."""
  return float(np.mean(np.asarray(tokens) % 2 == 0))


def _ours(model: str) -> Callable[[], object]:
  # Imported late: a process of TRL alone has no use for it.
  from benchmarks import ours
  from prefixrl_jax.distributed import sharding
  from prefixrl_jax.distributed.mesh import make_mesh
  from prefixrl_jax.learner.advantages import advantages
  from prefixrl_jax.learner.packing import Lane, Tree, layout_for, pack
  from prefixrl_jax.models import parameters
  from prefixrl_jax.rollouts.requests import Request

  config = shapes.MODELS[model]
  mesh = make_mesh(data=-1, fsdp=1, tensor=1)
  sampler = ours.make_sampler(
    config,
    mesh,
    rows=NUM_PROMPTS,
    lanes=GROUP,
    trunk_length=PROMPT_LENGTH,
    completion_length=NEW_TOKENS,
    steps_per_dispatch=NEW_TOKENS,
  )
  layout = layout_for(
    longest_trunk=PROMPT_LENGTH,
    longest_completion=NEW_TOKENS,
    num_lanes=GROUP,
    num_trees=(0, NUM_PROMPTS),
    row_length=1152,  # two trees
    rows_per_microbatch=1,
  )
  step, _, init = ours.make_update(config, mesh, b2=0.999)  # as TRL's
  params = parameters.put_params(config, mesh, shapes.random_params(config))
  held = [init(params)]
  prompts = _prompts(config).astype(np.int32)
  steps = iter(range(2**31))

  def run():
    number = next(steps)
    sampler.load(held[0].params)
    groups = sampler.sample(
      [
        Request(prompt, GROUP, number * NUM_PROMPTS + i, i)
        for i, prompt in enumerate(prompts)
      ],
      purpose="sampling",
      seed=0,
    )
    rewards = np.array([[_reward(c.tokens) for c in group] for group in groups])
    weights = advantages(rewards, "group_std")
    trees = [
      Tree(
        prompt,
        [
          Lane(PROMPT_LENGTH, c.tokens, c.logprobs, np.full(NEW_TOKENS, a))
          for c, a in zip(group, group_weights)
        ],
        is_prefixed=False,
      )
      for prompt, group, group_weights in zip(prompts, groups, weights)
    ]
    with jax.set_mesh(mesh):
      batch = sharding.put_rows(mesh, pack(trees, layout), axis=1)
      held[0], metrics = step(held[0], batch, None)
    return metrics

  return run


class _Turns:
  """Lets a trainer that owns its loop take one step a call.

  The trainer runs in a thread; `callback` waits at the end of every step.
  """

  def __init__(self, make_trainer):
    self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
    self._failure: BaseException | None = None
    threading.Thread(
      target=self._run, args=(make_trainer,), daemon=True
    ).start()

  def _run(self, make_trainer):
    from transformers import TrainerCallback

    turns = self

    class AtStepEnd(TrainerCallback):
      def on_step_end(self, *args, **kwargs):
        turns._done.release()
        turns._go.acquire()

    self._go.acquire()
    try:
      make_trainer([AtStepEnd()]).train()
    except BaseException as e:
      self._failure = e
      self._done.release()

  def __call__(self) -> None:
    self._go.release()
    self._done.acquire()
    if self._failure is not None:
      raise self._failure


def _trl(model: str) -> Callable[[], object]:
  """Its own loop, sampling by `generate`; completions never end early."""
  import datasets
  import tokenizers
  import torch
  import transformers
  import trl

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  config = shapes.MODELS[model]
  words = {f"w{i}": i for i in range(config.vocab_size)}
  inner = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(words, unk_token="w0")
  )
  inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=inner, unk_token="w0", pad_token="w1", eos_token="w2"
  )
  data = datasets.Dataset.from_dict(
    {
      "prompt": [" ".join(f"w{t}" for t in row) for row in _prompts(config)]
      * 1000
    }
  )
  settings = trl.GRPOConfig(
    output_dir="runs/trl",
    per_device_train_batch_size=NUM_PROMPTS * GROUP,
    num_generations=GROUP,
    max_completion_length=NEW_TOKENS,
    generation_kwargs={"min_new_tokens": NEW_TOKENS},
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    beta=0.0,
    learning_rate=LEARNING_RATE,
    lr_scheduler_type="constant",
    gradient_checkpointing=False,
    bf16=False,
    use_cpu=True,
    shuffle_dataset=False,
    max_steps=1000,
    save_strategy="no",
    logging_strategy="no",
    report_to="none",
    disable_tqdm=True,
    dataloader_pin_memory=False,
  )
  twin = shapes.transformers_twin(config, shapes.random_params(config))
  twin.generation_config.eos_token_id = 2
  twin.generation_config.pad_token_id = 1

  def reward(completion_ids, **unused):
    return [_reward(ids) for ids in completion_ids]

  return _Turns(
    lambda callbacks: trl.GRPOTrainer(
      model=twin,
      reward_funcs=reward,
      args=settings,
      train_dataset=data,
      processing_class=tokenizer,
      callbacks=callbacks,
    )
  )


def main() -> None:
  """Times the steps and prints the table, or takes the first one."""
  from prefixrl_jax.distributed.compilation import keep_compiled_programs

  makers = {"prefixrl_jax": _ours, "trl": _trl}
  if _FIRST_STEP.value:
    keep_compiled_programs()
    jax.block_until_ready(makers[_FIRST_STEP.value](_MODEL.value)())
    print(FIRST_STEP_DONE, flush=True)
    os._exit(0)  # a trainer's thread waits for its next turn
  names = ["prefixrl_jax"] + [_PEER.value] * (_PEER.value != "none")
  timed = measuring.alternate(
    {name: functools.partial(makers[name], _MODEL.value) for name in names},
    _REPEATS.value,
  )
  ours = timed["prefixrl_jax"].median
  measuring.show(
    f"GRPO step of {_MODEL.value}, {len(os.sched_getaffinity(0))} cores",
    [
      {"by": name, **times.row(), "against ours": times.median / ours}
      for name, times in timed.items()
    ],
    _JSON.value,
  )


if __name__ == "__main__":
  measuring.run(main)
