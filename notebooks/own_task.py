# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A task and a reward of your own
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORGANISATION/prefixrl_jax/blob/main/notebooks/own_task.ipynb)
#
# A task is a function that yields problems, a reward a function that judges texts.
# Both stand in a file that the config names; the package stays as it is. Here the
# demo's small model, which knows sums of digits, is to say of numbers whether they
# are odd.

# %%
# Installs the package if it is not there; on Colab choose a CPU or a TPU.
import importlib.util
import subprocess
import sys

SOURCE = "git+https://github.com/ORGANISATION/prefixrl_jax"
if not importlib.util.find_spec("prefixrl_jax"):
  package = f"prefixrl_jax[notebooks] @ {SOURCE}"
  subprocess.check_call([sys.executable, "-m", "pip", "install", package])

# %%
import inspect
import json
import os
import pathlib
import random
import re

import matplotlib.pyplot as plt

from prefixrl_jax import api
from prefixrl_jax.types import TrainData

TINY = os.environ.get("PREFIXRL_TINY") == "1"  # a test: seconds, and no results
FIELDS = json.loads(os.environ.get("PREFIXRL_FIELDS", "{}"))  # a test's, too
STEPS = 2 if TINY else 200

# %% [markdown]
# ## The problems
#
# The function takes the config's section `problems` and a seed. It yields a
# prompt, what is right, and whether to train on it. (The model knows no symbols
# but digits, the letters a to j and a few signs.)


# %%
def odd_numbers(config, seed):
  """Three numbers: 1 for those that are odd, 0 for the others."""
  rng = random.Random(seed)
  while True:
    numbers = {label: rng.randrange(100) for label in "abc"}
    yield {
      "prompt": " ".join(f"{k}{n:02}" for k, n in numbers.items()) + "?",
      "answer": " ".join(f"{k}={n % 2}" for k, n in numbers.items()),
      "split": rng.choice(["train", "heldout"]),
    }


# %% [markdown]
# ## The reward
#
# A number from 0 to 1 for each text, where **1 means right**: only such a text
# counts in accuracies and becomes a trace. In between you may help: here half of
# the share of numbers that are right. (Not before all are answered: a prefix whose
# reward is above 0 counts as one that gives the answer away, and is not used.)


# %%
def share_right(problems, texts):
  """1 if all numbers are right, else half of the share; 0 if one is missing."""
  rewards = []
  for problem, text in zip(problems, texts):
    right = problem.answer.split()
    given = re.findall("[a-c]=[0-9]", text)
    share = sum(a == b for a, b in zip(given, right)) / len(right)
    is_whole = len(given) == len(right)
    rewards.append(1.0 if share == 1 else is_whole * share / 2)
  return rewards


# %% [markdown]
# Both go into a file, since rewards are judged in processes of their own, which
# can be ended if a text takes too long.

# %%
code = ["import random\nimport re\n"]
code += [inspect.getsource(f) for f in (odd_numbers, share_right)]
file = pathlib.Path("runs/odd_numbers.py")
file.parent.mkdir(exist_ok=True)
file.write_text("\n\n".join(code))

config = api.load_config(
  "demo:tiny=true" if TINY else "demo",
  FIELDS
  | {
    "problems.function": f"{file}:odd_numbers",
    "rewards.function": f"{file}:share_right",
    "problems.num_train": 8 if TINY else 64,
    "problems.num_heldout": 8 if TINY else 32,
    "problems.num_easy": 0,
  },
)

# %% [markdown]
# ## Before training
#
# The policy answers as it has learnt to, with sums modulo 3. That is right by
# accident here and there, which is all that a reward needs.

# %%
policy = api.load_policy(config)
problems = api.load_problems(config)
train = [p for p in problems if p.split == "train"]
heldout = [p for p in problems if p.split == "heldout"]
groups = api.sample(policy, train[:3], 4)
for group in groups:
  print(group.problem.prompt, " right:", group.problem.answer)
  for text, reward in zip(policy.texts(group), group.rewards):
    print(f"  {reward:.2f}  {text}")

# %% [markdown]
# A reward can be tried on texts of your own, too:

# %%
right = train[0].answer.replace(" ", "")
api.judge(policy, train[:1] * 3, [right, right[:3], "who knows?"])

# %% [markdown]
# ## RL
#
# Problems are all that it needs. `on_step` is called after each step, with
# everything that was measured.

# %%
rewards = {"rl": [], "prefixrl": []}


def note(arm):
  """Returns a callback that keeps the reward of problems without prefix."""
  return lambda step, metrics: rewards[arm].append(
    metrics["train/no_prefix/reward"]
  )


data = TrainData(train=train, heldout=heldout)
by_rl, _ = api.train(policy, data, "rl", steps=STEPS, on_step=note("rl"))

# %% [markdown]
# ## PrefixRL
#
# It needs traces, which rejection sampling finds, and prefixes of them. This task
# is not so hard that it would be worth it: RL learns it alone, and gets further,
# since three prompts in four already give the first number's answer, which is then
# hardly trained. On a task where RL gets nowhere the same lines are what helps.

# %%
traces = api.collect(policy, train)
prefixed = api.cut(policy, train, traces)
solved = {t.problem_id for t in traces}
data = TrainData(
  train=[p for p in train if p.id in solved],
  heldout=heldout,
  traces=traces,
  prefixed=prefixed,
  ledger=policy.ledger.to_dict(),
)
by_prefixrl, _ = api.train(
  policy, data, "prefixrl", steps=STEPS, on_step=note("prefixrl")
)

# %%
figure, axes = plt.subplots(figsize=(6, 3))
for arm, of_arm in rewards.items():
  axes.plot(range(1, len(of_arm) + 1), of_arm, label=arm)
axes.set_xlabel("Step")
axes.set_ylabel("Reward without prefix")
axes.set_ylim(-0.03, 1.03)
axes.legend()
plt.show()

# %% [markdown]
# ## On problems that were not trained on

# %%
figure, axes = plt.subplots(figsize=(4, 3))
policies = {"base": policy, "rl": by_rl, "prefixrl": by_prefixrl}
colours = ("#777777", "#2c6fbb", "#c0392b")
for (name, one), colour in zip(policies.items(), colours):
  results = api.evaluate(one, heldout, num_samples=4 if TINY else 32)
  shares = [r.num_correct / r.num_samples for r in results]
  axes.plot(sorted(shares), color=colour, label=name, marker=".")
axes.set_xlabel("Held-out problems, hardest first")
axes.set_ylabel("Share of right answers")
axes.legend()
plt.show()
policy.close()

# %% [markdown]
# ## Where to go on
#
# - [What a reward may and may not do](../docs/own_tasks.md).
# - The same two functions on the command line, where runs can be interrupted and
#   are reported: `prefixrl-jax --config=demo --config.problems.function=...`.
# - [real_model](real_model.ipynb): the same with a model from the hub.
# - [A loss or an arm of your own](../docs/own_arm.md).
