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
# # PrefixRL in five minutes
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORGANISATION/prefixrl_jax/blob/main/notebooks/quickstart.ipynb)
#
# Reinforcement learning learns nothing from a problem that the policy never
# solves: every reward is 0. PrefixRL lets the policy start from the beginning of
# a correct solution, and trains only what it writes from there on. Here three
# arms have the same FLOPs to spend on problems that a small model cannot solve:
# RL, RL after supervised fine-tuning on the correct solutions, and PrefixRL.

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
from IPython.display import Image

from prefixrl_jax import api

WORKDIR = "runs/quickstart"  # what is complete there is not run again
TINY = os.environ.get("PREFIXRL_TINY") == "1"  # a test: seconds, and no results
CONFIG = "demo:tiny=true,arms=prefixrl" if TINY else "demo:seeds=1"
FIELDS = json.loads(os.environ.get("PREFIXRL_FIELDS", "{}"))  # a test's, too

# %% [markdown]
# ## A problem that is too hard
#
# A problem has labelled blocks of two digits. Each is to be answered with the
# sum of its digits modulo 3. The policy is a transformer of 39,008 parameters.
# It has learnt the format and could work out a block digit by digit, but does so
# hardly ever: it guesses, and seven guesses in a row are right once in 2,187.

# %%
config = api.load_config(CONFIG, FIELDS)
base = api.load_policy(config)
problem = next(p for p in api.load_problems(config) if p.split == "train")
print("problem:", problem.prompt, "\nanswer: ", problem.answer, "\n")
[group] = api.sample(base, [problem], 8)
for text, reward in zip(base.texts(group), group.rewards):
  print(f"{reward:.0f}  {text}")

# %% [markdown]
# With every reward 0 the gradient is 0, too. But a few of thousands of samples
# are right by luck, and those are worth keeping: they are the **traces** whose
# beginnings become **prefixes**.
#
# ## The whole run
#
# The next cell finds out which problems are hard, collects traces, cuts them,
# trains the arms and evaluates them: some four minutes on two CPU cores. If it is
# interrupted, run it again: it goes on where it stopped.

# %%
api.run(config, WORKDIR)

# %% [markdown]
# **Figure A**: accuracy on the problems themselves, without any prefix, over the
# FLOPs spent. The grey band is what collecting the traces has cost; arms that use
# them begin there. In the lower row FLOPs are counted as the device executed
# them. A run is all or nothing: over twenty seeds PrefixRL takes off on 18,
# RL on 5.

# %%
Image(filename=f"{WORKDIR}/report/figure_a.png", width=700)

# %% [markdown]
# **Figure C**: accuracy by how much of a trace the policy is given. Training saw
# the shaded shares alone. That the line also rises to the left of them, down to
# no prefix at all, is *back-generalization*, and the reason why the method works.

# %%
Image(filename=f"{WORKDIR}/report/figure_c.png", width=500)

# %% [markdown]
# ## The same numbers in pandas
#
# `read_runs` reads all runs of a workdir: every training step, every point of the
# curves, every evaluated problem.

# %%
runs = api.read_runs(WORKDIR)
final = runs.results.query("fraction == 0")
final.groupby(["arm", "split"]).accuracy.mean().unstack().round(3)

# %% [markdown]
# Entropy shows what became of an arm: one that ends near 0 has settled on a
# format, one that ends high has lost it.

# %%
figure, axes = plt.subplots(figsize=(6, 3))
for arm, steps in runs.steps.groupby("arm"):
  known = steps.dropna(subset=["train/no_prefix/entropy"])
  axes.plot(known["flops_paper"], known["train/no_prefix/entropy"], label=arm)
axes.set_xlabel("Training FLOPs")
axes.set_ylabel("Entropy of a token, nats")
axes.legend()
plt.show()

# %% [markdown]
# And the problem from above, asked again:

# %%
trained = api.load_policy(config, WORKDIR, arm="prefixrl")
[group] = api.sample(trained, [problem], 8)
for text, reward in zip(trained.texts(group), group.rewards):
  print(f"{reward:.0f}  {text}")

# %% [markdown]
# ## Where to go on
#
# - [prefixes](prefixes.ipynb): what the traces look like, where they are cut, and
#   what a prefix is worth. It uses the run that you have just made.
# - [own_task](own_task.ipynb): a task and a reward of your own.
# - [real_model](real_model.ipynb): a model from the Hugging Face hub.
# - `runs/quickstart/report/index.html` is the whole report; open it in a browser.
# - The documentation: [the method](../docs/method.md),
#   [the Python API](../docs/api.md).
