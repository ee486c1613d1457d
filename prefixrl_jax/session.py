"""What every stage needs: mesh, model, tokenizer, verifier."""

import dataclasses
import functools

import jax
import ml_collections

from prefixrl_jax.models import transformer
from prefixrl_jax.rewards import Verifier
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.tokenizer import Tokenizer


@dataclasses.dataclass
class Session:
  """The things that are made once and shared by the stages.

  Attributes:
    config: the whole config.
    mesh: the devices.
    model: shape of the transformer.
    base_params: the base policy, on the mesh.
    policy: "<id>@<weight hash>" of the base policy.
    tokenizer, verifier: of the task.
  """

  config: ml_collections.ConfigDict
  mesh: jax.sharding.Mesh
  model: transformer.TransformerConfig
  base_params: dict
  policy: str
  tokenizer: Tokenizer
  verifier: Verifier

  def sampler(
    self,
    *,
    rows: int,
    lanes: int,
    trunk_length: int,
    temperature: float,
  ) -> Sampler:
    """Returns a sampler of this session's model; see `Sampler`."""
    rollouts = self.config.rollouts
    return _sampler(
      self.model,
      self.mesh,
      rows=rows,
      lanes=lanes,
      trunk_length=round_up(trunk_length, 8),
      completion_length=rollouts.max_completion_length,
      steps_per_dispatch=rollouts.steps_per_dispatch,
      temperature=temperature,
      top_k=rollouts.top_k,
      top_p=rollouts.top_p,
      stop_tokens=self.tokenizer.stop_tokens,
    )


@functools.cache
def _sampler(model, mesh, **settings) -> Sampler:
  """Samplers of one shape share their compiled functions and caches."""
  return Sampler(model, mesh, **settings)


def round_up(n: int, multiple: int) -> int:
  """Returns the least multiple that is not below n."""
  return -(-n // multiple) * multiple
