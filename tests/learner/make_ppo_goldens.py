"""What verl's functions make of random inputs: PPO's advantages and losses.

To store them anew (torch is needed, and verl's wheel, unpacked; the two modules
are read without importing verl, which would want a GPU's packages):

  pip download --no-deps verl==0.4.1 && unzip verl-*.whl -d FOLDER
  python tests/learner/make_ppo_goldens.py FOLDER
"""

import ast
import json
import pathlib
import sys
import types
from typing import Any

GOLDENS = pathlib.Path(__file__).with_name("ppo_goldens.json")
_FUNCTIONS = {
  "verl/utils/torch_functional.py": (
    "masked_mean",
    "masked_var",
    "masked_whiten",
    "clip_by_value",
  ),
  "verl/trainer/ppo/core_algos.py": (
    "agg_loss",
    "compute_gae_advantage_return",
    "compute_policy_loss",
    "compute_value_loss",
  ),
}


def _load(folder: pathlib.Path) -> types.SimpleNamespace:
  """Runs the functions alone, without their modules' imports."""
  import torch

  scope: dict[str, Any] = {"torch": torch}
  for file, names in _FUNCTIONS.items():
    for node in ast.parse((folder / file).read_text()).body:
      if isinstance(node, ast.FunctionDef) and node.name in names:
        node.decorator_list = []
        exec(ast.unparse(node), scope)
    scope["verl_F"] = types.SimpleNamespace(**scope)
  return scope["verl_F"]


def main(folder: str) -> None:
  """Writes the goldens."""
  import torch

  verl = _load(pathlib.Path(folder))
  torch.manual_seed(0)
  cases = []
  for gamma, lam, low, high, dual in (
    (1.0, 1.0, 0.2, 0.2, 3.0),
    (0.99, 0.95, 0.2, 0.28, 10.0),
    (0.9, 0.0, 0.1, 0.4, 1.5),
  ):
    draw = lambda: torch.randn(3, 7, dtype=torch.float64)
    values, rewards = draw(), draw()
    mask = torch.ones_like(values)
    _, returns = verl.compute_gae_advantage_return(
      rewards, values, mask, gamma, lam
    )
    advantages, old, new = draw(), draw() / 3 - 2, draw() / 3 - 2
    new.requires_grad_()
    loss, clipped, _, lower = verl.compute_policy_loss(
      old, new, advantages, mask, None, low, high, dual
    )
    loss.backward()
    predicted = (values + draw() / 3).requires_grad_()
    value_loss, value_clipped = verl.compute_value_loss(
      predicted, returns, values, mask, 0.2
    )
    value_loss.backward()
    arrays = dict(
      rewards=rewards,
      values=values,
      returns=returns,
      advantages=advantages,
      behavior_logprobs=old,
      logprobs=new,
      logprobs_gradient=new.grad,
      predicted=predicted,
      predicted_gradient=predicted.grad,
      policy_loss=loss,
      clipped=clipped + lower,
      value_loss=value_loss,
      value_clipped=value_clipped,
    )
    cases.append(
      dict(gamma=gamma, lam=lam, clip_low=low, clip_high=high, dual_clip=dual)
      | {name: x.detach().tolist() for name, x in arrays.items()}
    )
  GOLDENS.write_text(json.dumps({"verl": "0.4.1", "cases": cases}) + "\n")


if __name__ == "__main__":
  main(sys.argv[1])
