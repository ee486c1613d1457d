"""Products in three memory layouts, by hand; how files are kept short."""

import ast
import pathlib

import flax.linen as nn
import numpy as np
import pytest

from prefixrl_jax.models import linear
from prefixrl_jax.models.decoder_config import Lora, TransformerConfig

_MODELS = pathlib.Path(linear.__file__).parent
_CONFIG = TransformerConfig(
  num_layers=1,
  width=2,
  num_heads=2,
  num_kv_heads=2,
  head_dim=1,
  mlp_width=3,
  vocab_size=4,
  lora=Lora(rank=1, alpha=3.0, targets=("query",)),
)
_HEADS = {"heads": 2, "head_dim": 1}
_LAYOUTS = (linear.Linear, linear.OutputsFirst, linear.TokensLast)


class _Layer(nn.Module):
  """Queries with a bias, or the product of two activated weights."""

  layout: type[linear.Linear]
  activated: bool
  config: TransformerConfig = _CONFIG

  @nn.compact
  def __call__(self, x):
    product = self.layout(self, ("rows", "residual", "features"))
    embed = {"embed": 2}
    if self.activated:
      multiply = lambda up, gate: up * gate
      return product.activated(multiply, ("up", "gate"), x, embed, {"mlp": 3})
    return product("query", x, embed, _HEADS, bias=True)


def _apply(layout, weights, *, activated, others=None, adapters=None):
  """Runs one row of two tokens, (1, 2) and (3, 4)."""
  if layout is not linear.Linear:
    weights = {name: weight.T for name, weight in weights.items()}
  else:
    weights = {
      name: weight if activated else weight.reshape(2, 2, 1)
      for name, weight in weights.items()
    }
  variables = {"params": weights | (others or {}), "adapters": adapters or {}}
  x = np.array([[[1.0, 2.0], [3.0, 4.0]]], np.float32)
  return np.asarray(_Layer(layout, activated).apply(variables, x))


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_multiplies_and_adds_the_bias_of_each_head(layout):
  weight = np.array([[1.0, 10.0], [2.0, 20.0]], np.float32)
  bias = {"query_bias": np.array([[0.5], [-0.5]], np.float32)}
  out = _apply(layout, {"query": weight}, activated=False, others=bias)
  # 1 + 2 * 2 and ten times that; 3 + 4 * 2 and ten times that.
  np.testing.assert_array_equal(out[..., 0], [[[5.5, 49.5], [11.5, 109.5]]])


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_activates_the_products_of_several_weights(layout):
  weights = {
    "up": np.array([[1, 0, 1], [0, 1, 1]], np.float32),
    "gate": np.array([[1, 1, 0], [0, 0, 2]], np.float32),
  }
  out = _apply(layout, weights, activated=True)
  # (1, 2, 3) * (1, 1, 4) and (3, 4, 7) * (3, 3, 8).
  np.testing.assert_array_equal(out, [[[1, 2, 12], [9, 12, 56]]])


def test_an_adapter_counts_beside_its_weight():
  adapter = {
    "a": np.array([[1.0], [1.0]], np.float32),
    "b": np.array([[[2.0], [0.0]]], np.float32),
  }
  zeros = np.zeros((2, 2), np.float32)
  bias = {"query_bias": np.zeros((2, 1), np.float32)}
  out = _apply(
    linear.Linear,
    {"query": zeros},
    activated=False,
    others=bias,
    adapters={"query": adapter},
  )
  # Three times (the scale) twice the sum of the token's features.
  np.testing.assert_array_equal(out[..., 0], [[[18, 0], [42, 0]]])
  added = linear.with_adapter(_CONFIG, zeros.reshape(2, 2, 1), adapter)
  np.testing.assert_array_equal(added[..., 0], [[6, 0], [6, 0]])


@pytest.mark.parametrize(
  "file", sorted(_MODELS.glob("*.py")), ids=lambda f: f.name
)
def test_files_and_functions_are_short(file):
  text = file.read_text()
  assert text.count("\n") <= 400
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef):
      assert node.end_lineno - node.lineno < 80, node.name


@pytest.mark.parametrize(
  "file", sorted(_MODELS.glob("*.py")), ids=lambda f: f.name
)
def test_public_functions_that_raise_say_so(file):
  for node in ast.parse(file.read_text()).body:
    if isinstance(node, ast.FunctionDef) and node.name[0] != "_":
      raised = [x for x in ast.walk(node) if isinstance(x, ast.Raise) and x.exc]
      said = ast.get_docstring(node) or ""
      assert not raised or "Raise" in said, node.name
