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
# # A real model, other people's traces, LoRA
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORGANISATION/prefixrl_jax/blob/main/notebooks/real_model.ipynb)
#
# A model of the Hugging Face hub learns to solve word problems like those of
# GSM8K from prefixes of solutions that somebody else wrote; only adapters (LoRA)
# are trained. On Colab choose a GPU or a TPU. Without one, a tiny model with
# random weights takes its place: everything runs, and nothing is learnt.

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

import jax
import matplotlib.pyplot as plt

from prefixrl_jax import api

HUB = "" if jax.default_backend() == "cpu" else "Qwen/Qwen2.5-0.5B-Instruct"
HUB = os.environ.get("PREFIXRL_MODEL", HUB)  # a name on the hub, or a folder
RANDOM = not HUB  # a tiny model with random weights takes its place
MODEL = HUB or "runs/random_model"
WORKDIR = "runs/real_model"
STEPS = 2 if RANDOM else 30
folder = pathlib.Path("runs/random_model")
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Problems and solutions
#
# Word problems by rule, each with a solution as a person would write it. Your own
# would come from a file (`config.problems.file`) or from the hub
# (`math:task=gsm8k`). The instruction at the end is the config's.


# %%
def shopping(config, seed):
  """Boxes of apples: how many are left?"""
  rng = random.Random(seed)
  while True:
    boxes, each, eaten = rng.choices(range(3, 13), k=3)
    question = (
      f"Ann buys {boxes} boxes of {each} apples and eats {eaten}."
      " How many apples are left?"
    )
    yield {
      "prompt": question + config.instruction,
      "answer": str(boxes * each - eaten),
      "split": rng.choice(["train", "heldout"]),
      "metadata": {"boxes": boxes, "each": each, "eaten": eaten},
    }


# %%
file = pathlib.Path("runs/shopping.py")
file.write_text("import random\n\n\n" + inspect.getsource(shopping))

# %% [markdown]
# ## The stand-in
#
# A folder as the hub has them: a tokenizer, a `config.json` and weights. With a
# model of the hub the next two cells make nothing.

# %%
import tokenizers

WORDS = "Ann buys boxes of apples and eats. How many are left? x = - 0123456789"
tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(False)
tokenizer.decoder = tokenizers.decoders.ByteLevel()
trainer = tokenizers.trainers.BpeTrainer(
  vocab_size=320,
  special_tokens=["<end>"],
  initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
)
if RANDOM:
  tokenizer.train_from_iterator([WORDS] * 4, trainer)
  tokenizer.save(str(folder / "tokenizer.json"))

# %%
from etils import epath
from safetensors.numpy import save_file

from prefixrl_jax.models import importing, parameters

if RANDOM:
  sizes = dict(vocab_size=320, hidden_size=32, intermediate_size=64)
  layers = dict(num_hidden_layers=1, num_attention_heads=4, eos_token_id=0)
  kind = dict(model_type="llama", hidden_act="silu", rms_norm_eps=1e-5)
  (folder / "config.json").write_text(json.dumps(sizes | layers | kind))
  model = importing.read_config(
    epath.Path(folder), dtype="float32", param_dtype="float32", remat="none"
  )
  weights = jax.device_get(parameters.init(model, jax.random.key(0)))
  tensors = importing.to_hugging_face(weights, "llama")
  save_file(tensors, folder / "model.safetensors")

# %% [markdown]
# ## The config
#
# `math` is the config for problems with an answer in a box; math-verify judges.
# `trial=true` shrinks it to what a single device does in minutes, and a few fields
# are ours: `lora.rank` says that adapters are trained and the model is frozen.

# %%
fields = {
  "model.folder": MODEL,
  "lora.rank": 4 if RANDOM else 16,
  "problems.function": f"{file}:shopping",
  "problems.num_train": 8 if RANDOM else 64,
  "problems.num_heldout": 4 if RANDOM else 32,
  "traces.file": "runs/solutions.jsonl",
  "rollouts.max_completion_length": 48 if RANDOM else 256,
  "train.max_steps": STEPS,
  "arms.prefixrl.learning_rate": 1e-4,
}
if RANDOM:
  fields |= {"train.prompts_per_step": 4, "train.completions_per_prompt": 2}
  fields |= {"evals.temperature": 0.5, "evals.curve_problems": 2}
config = api.load_config("math:trial=true,arms=prefixrl", fields)
problems = api.load_problems(config)
print(problems[0].prompt, "\n\nanswer:", problems[0].answer)

# %% [markdown]
# ## Other people's traces
#
# A file with a row a solution: the problem's text, the solution, and who wrote it.
# Solutions in the columns of OpenR1-Math and others are read as they are.

# %%
rows = []
for problem in (p for p in problems if p.split == "train"):
  boxes, each, eaten = (problem.metadata[k] for k in ("boxes", "each", "eaten"))
  total = boxes * each
  solution = (
    f"{boxes} x {each} = {total}. {total} - {eaten} = {total - eaten}."
    f" \\boxed{{{total - eaten}}}"
  )
  question = problem.prompt.removesuffix(config.problems.instruction)
  row = {"problem": question, "solution": solution, "model": "a teacher"}
  rows.append(json.dumps(row))
pathlib.Path("runs/solutions.jsonl").write_text("\n".join(rows) + "\n")
print(solution)

# %% [markdown]
# ## The run
#
# The stage `import` takes the place of `collect`: each solution is tokenised as
# the model would have written it, and judged. Problems that the model solves
# anyway are not trained on, which `screen` finds out.

# %%
api.run(config, WORKDIR, "import,screen,cut,train,evaluate")

# %% [markdown]
# Where the solutions were cut:

# %%
data = api.load_data(config, WORKDIR)
figure, axes = plt.subplots(figsize=(6, 3))
for i, trace in enumerate(data.traces):
  axes.hlines(i, 0, len(trace.tokens), color="#c8d8ea")
  for p in data.prefixed:
    if p.problem_id == trace.problem_id:
      axes.plot(len(p.prefix), i, "o", color="#c0392b", markersize=4)
axes.set_xlabel("Tokens of the solution")
axes.set_ylabel("Solution")
plt.show()

# %% [markdown]
# What training did, step by step, and what it came to. (Of random weights all
# accuracies are 0.)

# %%
runs = api.read_runs(WORKDIR)
figure, axes = plt.subplots(figsize=(6, 3))
for kind in ("prefixed", "no_prefix"):
  entropy = runs.steps[f"train/{kind}/entropy"]
  axes.plot(runs.steps.step, entropy, marker=".", label=kind)
axes.set_xlabel("Step")
axes.set_ylabel("Entropy of a token, nats")
axes.legend()
plt.show()

# %%
shares = runs.results.groupby(["arm", "fraction"]).accuracy.mean()
figure, axes = plt.subplots(figsize=(6, 3))
for arm, line in shares.groupby("arm"):
  axes.plot(line.loc[arm].index, line, marker="o", label=arm)
axes.set_xlabel("Share of the solution revealed")
axes.set_ylabel("Accuracy")
axes.set_ylim(-0.03, 1.03)
axes.legend()
plt.show()

# %%
policy = api.load_policy(config, WORKDIR, arm="prefixrl")
[group] = api.sample(policy, problems[:1], 1)
print(problems[0].prompt, "\n\n", policy.texts(group)[0])
policy.close()

# %% [markdown]
# ## Where to go on
#
# - [Real models, real problems](../docs/real_models.md): other tasks, and what each
#   needs; [presets](../docs/presets.md) of models and machines.
# - [LoRA](../docs/lora.md), and [exporting](../docs/exporting.md) what was trained
#   as a Hugging Face folder.
# - [Other people's traces](../docs/imported_traces.md): columns, thoughts, and what
#   is kept of a file.
# - [The method](../docs/method.md): why it works, in one page.
