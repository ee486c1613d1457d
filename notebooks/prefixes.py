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
# # Traces, prefixes, and what they are worth
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORGANISATION/prefixrl_jax/blob/main/notebooks/prefixes.ipynb)
#
# What the run of [quickstart](quickstart.ipynb) was made of: the traces that were
# collected, the places at which they were cut, how much easier a problem becomes
# with each of its tokens, and what training on prefixes does to shares of a trace
# that were never trained on. If there is no such run, it is made here.

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
import json
import os

import matplotlib.pyplot as plt
import pandas as pd

from prefixrl_jax import api

WORKDIR = "runs/quickstart"
TINY = os.environ.get("PREFIXRL_TINY") == "1"  # a test: seconds, and no results
CONFIG = "demo:tiny=true,arms=prefixrl" if TINY else "demo:seeds=1"
FIELDS = json.loads(os.environ.get("PREFIXRL_FIELDS", "{}"))  # a test's, too
SAMPLES = 4 if TINY else 64  # completions of a problem at each share

# %%
config = api.load_config(CONFIG, FIELDS)
api.run(config, WORKDIR, "screen,collect,cut,train")
base = api.load_policy(config, WORKDIR)
trained = api.load_policy(config, WORKDIR, arm="prefixrl")
data = api.load_data(config, WORKDIR)

# %% [markdown]
# ## Traces
#
# A trace is a correct completion of a hard problem that rejection sampling has
# found. `attempt` says how many completions were wrong before. Most are lucky
# guesses: no block is worked out in them.

# %%
problems = {p.id: p for p in data.train}
traces = pd.DataFrame(
  {
    "problem": [problems[t.problem_id].prompt for t in data.traces],
    "trace": [t.text for t in data.traces],
    "tokens": [len(t.tokens) for t in data.traces],
    "attempt": [t.attempt for t in data.traces],
  }
)
traces.head(8)

# %% [markdown]
# ## Cuts
#
# Each trace is cut at three places, drawn once between 40 and 80 % of its length
# (`config.prefixes`). A prefix that holds the answer already is cut earlier.
# Below, a line is a trace and its dots are the cuts.

# %%
row = {t.problem_id: i for i, t in enumerate(data.traces)}
figure, axes = plt.subplots(figsize=(6, 4))
for trace in data.traces:
  axes.hlines(row[trace.problem_id], 0, len(trace.tokens), color="#c8d8ea")
axes.scatter(
  [len(p.prefix) for p in data.prefixed],
  [row[p.problem_id] for p in data.prefixed],
  color="#c0392b",
  s=12,
)
axes.set_xlabel("Tokens of the trace")
axes.set_ylabel("Trace")
plt.show()

# %% [markdown]
# One trace with its prefixes, as the policy reads them:

# %%
trace = data.traces[0]
decode = base.session.tokenizer.decode
print("problem:", problems[trace.problem_id].prompt)
print("trace:  ", trace.text)
for p in data.prefixed:
  if p.problem_id == trace.problem_id:
    print(f"{p.fraction:7.0%}: {decode([p.prefix.tolist()])[0]}")

# %% [markdown]
# ## One problem, by share revealed
#
# The base policy cannot solve it, by selection. With every token that is given,
# less is left to guess. This is why groups after prefixes have rewards to learn
# from. (A share whose tokens hold the answer already is not asked.)


# %%
def by_share(policy, problems, traces):
  """Returns accuracy by share of the trace that is revealed."""
  results = api.evaluate(
    policy,
    problems,
    traces=traces,
    fractions=(0.2, 0.4, 0.6, 0.8),
    num_samples=SAMPLES,
  )
  shares = pd.DataFrame([vars(r) for r in results])
  shares["accuracy"] = shares.num_correct / shares.num_samples
  return shares.groupby("fraction").accuracy.mean()


one = by_share(base, [problems[trace.problem_id]], [trace])
one.to_frame().T

# %%
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(one.index, one, marker="o", color="#2c6fbb")
axes.set_xlabel("Share of the trace revealed")
axes.set_ylabel("Accuracy of the base policy")
axes.set_ylim(-0.03, 1.03)
plt.show()

# %% [markdown]
# ## Back-generalization
#
# Training saw shares of 40 to 80 % (shaded), and some original problems, whose
# rewards were nearly always 0. What was learnt after prefixes holds for shorter
# ones as well, and in the end for none: the line of the trained policy is high to
# the left of the shaded band.

# %%
figure, axes = plt.subplots(figsize=(6, 3))
axes.axvspan(config.prefixes.low, config.prefixes.high, color="#f0f0f0")
for policy, colour in ((base, "#777777"), (trained, "#c0392b")):
  line = by_share(policy, data.train, data.traces)
  label = policy.name.partition("@")[0].replace("demo", "base")
  axes.plot(line.index, line, marker="o", color=colour, label=label)
axes.set_xlabel("Share of the trace revealed")
axes.set_ylabel("Accuracy")
axes.set_ylim(-0.03, 1.03)
axes.legend()
plt.show()

# %% [markdown]
# ## When it happened
#
# The same during training: rewards after prefixes come first, rewards without a
# prefix follow.

# %%
steps = api.read_runs(WORKDIR).steps.query("arm == 'prefixrl'")
figure, axes = plt.subplots(figsize=(6, 3))
for kind, colour in (("prefixed", "#c0392b"), ("no_prefix", "#2c6fbb")):
  accuracy = steps[f"train/{kind}/accuracy"].rolling(5, min_periods=1).mean()
  axes.plot(steps.step, accuracy, color=colour, label=kind)
axes.set_xlabel("Step")
axes.set_ylabel("Accuracy in training")
axes.legend()
plt.show()

# %% [markdown]
# ## Where to go on
#
# - [own_task](own_task.ipynb): the same with a task and a reward of your own.
# - [Cuts and schedules](../docs/own_arm.md): other shares, other mixtures.
# - [Other people's traces](../docs/imported_traces.md) in place of collected ones.
# - [theory](theory.ipynb): why it works, in exact numbers.
# - [How PrefixRL takes off](../docs/evidence.md), over twenty seeds.
