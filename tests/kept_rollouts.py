"""Runs with rollouts that are made up, to be shown."""

import numpy as np
from etils import epath

from prefixrl_jax.evals.rollout_pages import ViewedRun
from prefixrl_jax.storage.rollout_store import RolloutStore
from prefixrl_jax.text.tokenizer import SymbolTokenizer
from prefixrl_jax.types import EvalResult, Problem

TOKENIZER = SymbolTokenizer(["_", "a", "b", "=1", ";"], pad="_", stop=";")
PREFIX = [1, 3]  # a=1


class _AnyPrompt(SymbolTokenizer):
  """Takes any texts for the prompts of the rollouts."""

  def encode_prompts(self, texts):
    return (self.encode(f"a{'b' * i}") for i, _ in enumerate(texts))


ANY_PROMPT = _AnyPrompt(["_", "a", "b", "=1", ";"], pad="_", stop=";")
# Texts that are HTML, JavaScript, or not to be seen.
HOSTILE = (
  "</script><script>window.hit = 1</script>"
  "<img src=x onerror='window.hit = 2'>\"'`${window.hit = 3}\\"
  "\u2028\u2029\u202e\u200b\x00\x1b\x7f<!--<script>]]>&lt;\U0001f600\ud7ff"
)


def problems(count):
  """The prompts are a, ab, abb …"""
  return [
    Problem(f"p/{i}", f"a{'b' * i}", "1", "made up", "train", i)
    for i in range(count)
  ]


def run(
  directory,
  *,
  arm="prefixrl",
  seed=0,
  steps=4,
  num_problems=3,
  lanes=2,
  tokens=5,
  rescored=True,
):
  """Returns a run of alternating groups: without prefix, and after one.

  From step 3 on completions without prefix are correct, of problem 0 alone;
  after a prefix all but those of the last problem are, from the start.
  """
  store = RolloutStore(
    epath.Path(directory), share=1.0, max_bytes=1e9, resume_step=0
  )
  rng = np.random.default_rng(seed)
  finals = {}
  for step in range(1, steps + 1):
    rollouts, groups = [], []
    for group in range(2 * num_problems):
      problem, has_prefix = group // 2, group % 2
      reward = float(
        problem < num_problems - 1 if has_prefix else step >= 3 and problem == 0
      )
      key = dict(
        arm=arm,
        seed=seed,
        step=step,
        problem_id=f"p/{problem}",
        group=group,
        prefix_length=len(PREFIX) * has_prefix,
        fraction=0.4 * has_prefix,
      )
      for lane in range(lanes):
        logprobs = -rng.uniform(0, 3, tokens)
        finals[step, group, lane] = logprobs + 0.5
        rollouts.append(
          key
          | dict(
            lane=lane,
            prompt=TOKENIZER.encode(f"a{'b' * problem}"),
            prefix=PREFIX * has_prefix,
            tokens=[1, *[2] * (tokens - 2), 4],
            length=tokens,
            text="a" + "b" * (tokens - 2) + ";",
            logprobs=logprobs,
            advantages=np.linspace(-1, 1, tokens) if lane else None,
            reward=reward,
            truncated=False,
          )
        )
      groups.append(
        key
        | dict(
          num_completions=lanes,
          num_correct=lanes * int(reward),
          num_truncated=0,
          mean_reward=reward,
        )
      )
    store.add(rollouts, groups)
  store.flush()
  result = lambda correct: [
    EvalResult(f"p/{i}", "train", fraction, 8, correct)
    for i in range(num_problems)
    for fraction in (0.0, 0.5)
  ]
  return ViewedRun(
    arm=arm,
    seed=seed,
    data_seed=0,
    directory=epath.Path(directory),
    before=result(0),
    after=result(6),
    rescored=finals if rescored else {},
  )
