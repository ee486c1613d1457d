"""The critic: a linear head that reads values where the logits are read.

With a critic what is trained is {"policy": ..., "value": {"head": [D]}}, and
with a trunk of its own {"value": {"head": [D], "trunk": ...}}, which starts as
a copy of the policy's. Samplers, import and export see "policy" alone.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from prefixrl_jax.distributed import sharding
from prefixrl_jax.learner.logprobs import Actions, action_values
from prefixrl_jax.models import adapters
from prefixrl_jax.models.transformer import TransformerConfig


@dataclasses.dataclass(frozen=True)
class Critic:
  """What kind of critic there is.

  Attributes:
    has_trunk: it has a trunk of its own, not the policy's.
    trunk_gradient: its error trains the trunk that it reads.
  """

  has_trunk: bool = False
  trunk_gradient: bool = True


def make_critic(kind: str, trunk_gradient: bool) -> Critic | None:
  """Returns the critic of an arm.

  Args:
    kind: "none", "head" (on the policy's trunk) or "trunk" (of its own).
    trunk_gradient: see `Critic`.
  """
  if kind == "none":
    return None
  return Critic(has_trunk=kind == "trunk", trunk_gradient=trunk_gradient)


def policy_of(critic: Critic | None, trained: dict) -> dict:
  """Returns the policy's part of what is trained, its gradient or moments."""
  return trained if critic is None else trained["policy"]


def with_critic(
  critic: Critic | None, config: TransformerConfig, policy: dict
) -> dict:
  """Returns what is trained, from the policy's part: a head of zeros.

  Args:
    critic: None: the policy alone is trained.
    config: TransformerConfig.
    policy: arrays.
  """
  if critic is None:
    return policy
  value = {"head": jnp.zeros(config.width, jnp.float32)}
  if critic.has_trunk:
    value["trunk"] = jax.tree.map(jnp.copy, policy)
  return {"policy": policy, "value": value}


def abstract_trained(
  critic: Critic | None, config: TransformerConfig, mesh: jax.sharding.Mesh
) -> dict:
  """Returns shapes of what is trained, with their shardings on the mesh."""
  policy = adapters.abstract_trained(config, mesh)
  if critic is None:
    return policy
  value: dict = {
    "head": jax.ShapeDtypeStruct(
      (config.width,), jnp.float32, sharding=sharding.replicated(mesh)
    )
  }
  if critic.has_trunk:
    value["trunk"] = policy
  return {"policy": policy, "value": value}


def with_values(
  critic: Critic | None,
  config: TransformerConfig,
  base_params: dict | None,
  trained: dict,
  actions_of: Callable[..., Actions],
  *,
  rows,
  attend,
) -> Actions:
  """Returns what the policy says of sampled tokens, with the critic's values.

  Args:
    critic: None: there are no values.
    config: TransformerConfig.
    base_params: of the base policy, for adapters.
    trained: as from `with_critic`.
    actions_of: `action_logprobs` of the policy's parameters and keywords.
    rows: see `action_logprobs`.
    attend: see `action_logprobs`.
  """
  policy = adapters.policy_params(
    config, base_params, policy_of(critic, trained)
  )
  if critic is None:
    return actions_of(policy)
  if critic.has_trunk:
    args = critic, config, base_params, trained
    values = critic_values(*args, rows=rows, attend=attend)
    return actions_of(policy)._replace(values=values)
  return actions_of(
    policy,
    value_head=trained["value"]["head"],
    value_gradient=critic.trunk_gradient,
  )


def critic_values(
  critic: Critic,
  config: TransformerConfig,
  base_params: dict | None,
  trained: dict,
  *,
  rows,
  attend,
):
  """Returns the critic's values of sampled tokens, float32 [B, T].

  Args:
    critic, config, base_params, trained: see `with_values`.
    rows: see `action_logprobs`.
    attend: see `action_logprobs`.
  """
  value = trained["value"]
  trunk = value["trunk"] if critic.has_trunk else trained["policy"]
  if not critic.trunk_gradient:
    trunk = jax.lax.stop_gradient(trunk)
  return action_values(
    config,
    adapters.policy_params(config, base_params, trunk),
    value["head"],
    rows=rows,
    attend=attend,
  )


@functools.cache
def by_part(
  policy: optax.GradientTransformation, value: optax.GradientTransformation
) -> optax.GradientTransformation:
  """Returns an optimizer that treats policy and critic each by its own.

  It is the same one for the same two.

  Args:
    policy: of the policy's parameters.
    value: of the critic's.
  """
  labels = {"policy": "policy", "value": "value"}
  return optax.partition({"policy": policy, "value": value}, labels)
