"""Pretraining: what is not finite ends it, and leaves no base model."""

import pytest
from etils import epath

from prefixrl_jax.configs import demo
from prefixrl_jax.pipeline import Pipeline
from prefixrl_jax.types import UserError

pytestmark = pytest.mark.usefixtures("one_device_alone")


def test_stops_at_the_first_step_that_is_not_finite(tmp_path):
  config = demo.get_config("tiny=true")
  config.model.base = ""
  config.model.num_layers = config.model.scan_unroll = 1
  config.pretrain.warmup_steps = 0
  config.pretrain.batch_size = 2
  first, *_ = config.pretrain.phases
  config.pretrain.phases = [dict(first, num_steps=3, learning_rate=1e35)]
  with pytest.raises(UserError, match=r"step 1: .*norm of the parameters inf"):
    Pipeline(config, epath.Path(tmp_path), fresh=False).run(("pretrain",))
  assert not list(tmp_path.rglob("*.safetensors"))
