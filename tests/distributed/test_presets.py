"""Every preset fits its machine, by the memory plan."""

import pytest

from benchmarks import memory_plans
from prefixrl_jax.configs import math
from prefixrl_jax.configs.models import PRESETS
from prefixrl_jax.settings.validation import validate
from prefixrl_jax.types import UserError


@pytest.mark.parametrize("name", PRESETS)
def test_fits_its_machine(name):
  config = math.get_config(f"model={name}")
  validate(config)
  assert config.model.folder == PRESETS[name].folder
  model, rows, plan = memory_plans.planned(name)
  assert model.remat in ("none", "full")
  assert rows > 0
  assert sum(plan.values()) <= PRESETS[name].device_gigabytes * 1e9
  # The name says how many parameters there are, of experts too.
  billions = memory_plans.parameters.num_params(model) / 1e9
  digits = name.split("_", 1)[1].removesuffix("_a3b")
  said = float(digits.rstrip("bm").replace("_", "."))
  said /= 1000 if digits.endswith("m") else 1
  assert billions == pytest.approx(said, rel=0.05)


def test_an_unknown_model_is_refused():
  with pytest.raises(UserError, match="no model 'gpt'; known: smollm2_135m"):
    math.get_config("model=gpt")
