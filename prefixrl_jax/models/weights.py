"""What Hugging Face calls our parameters: tables that families share."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Weight:
  """Where a parameter of ours comes from.

  Attributes:
    name: theirs; `{}` is the layer, a second one the expert.
    inputs: how many of our axes are inputs. Theirs is [outputs, inputs], heads
      folded; ours is [inputs, outputs], heads apart. 0: a vector, heads
      folded; None: as it is.
  """

  name: str
  inputs: int | None = 1


def _per_layer(names: dict[str, str], inputs: int | None = 1):
  return {
    f"layers.{ours}": Weight(f"model.layers.{{}}.{theirs}", inputs)
    for ours, theirs in names.items()
  }


ENDS = {
  "embedding": Weight("model.embed_tokens.weight", None),
  "head": Weight("lm_head.weight"),
  "final_norm.scale": Weight("model.norm.weight", None),
}
ATTENTION = _per_layer(
  {
    "query": "self_attn.q_proj.weight",
    "key": "self_attn.k_proj.weight",
    "value": "self_attn.v_proj.weight",
  }
) | _per_layer({"output": "self_attn.o_proj.weight"}, 2)
MLP = _per_layer(
  {
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
  }
)
EXPERTS = _per_layer({"router": "mlp.gate.weight"}) | _per_layer(
  {
    "expert_gate": "mlp.experts.{}.gate_proj.weight",
    "expert_up": "mlp.experts.{}.up_proj.weight",
    "expert_down": "mlp.experts.{}.down_proj.weight",
  }
)
BIASES = _per_layer(
  {
    "query_bias": "self_attn.q_proj.bias",
    "key_bias": "self_attn.k_proj.bias",
    "value_bias": "self_attn.v_proj.bias",
  },
  0,
)
QK_NORMS = _per_layer(
  {
    "query_norm.scale": "self_attn.q_norm.weight",
    "key_norm.scale": "self_attn.k_norm.weight",
  },
  0,
)
PRE_NORMS = _per_layer(
  {
    "attention_norm.scale": "input_layernorm.weight",
    "mlp_norm.scale": "post_attention_layernorm.weight",
  },
  0,
)
POST_NORMS = _per_layer(
  {
    "attention_post_norm.scale": "post_attention_layernorm.weight",
    "mlp_post_norm.scale": "post_feedforward_layernorm.weight",
  },
  0,
)
BOTH_NORMS = POST_NORMS | _per_layer(
  {
    "attention_norm.scale": "input_layernorm.weight",
    "mlp_norm.scale": "pre_feedforward_layernorm.weight",
  },
  0,
)

PLAIN = ENDS | ATTENTION | MLP
LLAMA = PLAIN | PRE_NORMS
