"""The model families: how config.json is read, and which weights there are.

How to add one: docs/adding_a_family.md.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from prefixrl_jax.models import weights
from prefixrl_jax.models.decoder_config import LayerKind, RopeScaling
from prefixrl_jax.models.weights import Weight
from prefixrl_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Family:
  """A row of the table.

  Attributes:
    settings: config.json -> fields of TransformerConfig.
    weights: by our names.
    reads: of `_NEUTRAL`, what `settings` or the family itself takes care of.
    fixed: setting -> values it may have, since the decoder does nothing else;
      None stands for its absence.
  """

  settings: Callable[[Mapping], dict]
  weights: Mapping[str, Weight]
  reads: tuple[str, ...] = ()
  fixed: Mapping[str, tuple] = dataclasses.field(default_factory=dict)


class _Unsupported(ValueError):
  """A setting that the decoder does not know."""

  def __init__(self, name: str, value: Any, wanted: str):
    super().__init__(
      f"{name} = {value!r} is not supported for this family; it must be"
      f" {wanted}. Take another model, or see docs/adding_a_family.md."
    )


def config_fields(theirs: Mapping, file: str) -> dict:
  """Returns fields of TransformerConfig.

  Args:
    theirs: config.json.
    file: its name, for messages.

  Raises:
    UserError: an unknown family, or a setting that is missing or changes the
      computation in a way the decoder does not know.
  """
  family = FAMILIES.get(str(theirs.get("model_type")))
  if family is None:
    raise UserError(
      f"{file}: model_type {theirs.get('model_type')!r} is not known; known:"
      f" {', '.join(FAMILIES)}. To add one see docs/adding_a_family.md."
    )
  if theirs.get("quantization_config"):
    raise UserError(
      f"{file}: quantization_config: a quantised checkpoint cannot be trained"
      " and is not supported; take the model's unquantised weights (bfloat16),"
      " or dequantise it in transformers and save it again."
    )
  fixed = {k: v for k, v in _NEUTRAL.items() if k not in family.reads}
  try:
    for name, allowed in (fixed | dict(family.fixed)).items():
      if theirs.get(name) not in allowed:
        raise _Unsupported(name, theirs[name], repr(allowed[0]))
    return family.settings(theirs)
  except _Unsupported as e:
    raise UserError(f"{file}: {e}") from None
  except KeyError as e:
    raise UserError(f"{file} lacks {e}.") from None
  except (TypeError, ValueError, AttributeError, ArithmeticError) as e:
    raise UserError(f"{file}: a setting is of the wrong kind: {e}.") from None


# -- settings ------------------------------------------------------------------

# What changes the computation of some family. One that does not read it must
# not have it.
_NEUTRAL: dict[str, tuple] = {
  "attention_bias": (False, None),
  "attention_multiplier": (None,),
  "attn_logit_softcapping": (None,),
  "clip_qkv": (None,),
  "embedding_multiplier": (None, 1.0),
  "final_logit_softcapping": (None,),
  "hidden_act": ("silu", "swish", None),
  "hidden_activation": (None, "silu", "swish"),
  "logit_scale": (None, 1.0),
  "logits_scaling": (None, 1.0),
  "mlp_bias": (False, None),
  "no_rope_layers": (None,),
  "num_experts": (None, 0),
  "num_local_experts": (None, 0),
  "partial_rotary_factor": (None, 1.0),
  "query_pre_attn_scalar": (None,),
  "residual_multiplier": (None, 1.0),
  "rope_local_base_freq": (None,),
  "sliding_window": (None,),
  "use_bidirectional_attention": (False, None),
  "use_sliding_window": (False, None),
}

# What a rotary embedding of one of the known types does not look at: types that
# do are refused by their name.
_OF_OTHER_ROPES = (
  "attention_factor",
  "beta_fast",
  "beta_slow",
  "factor",
  "high_freq_factor",
  "long_factor",
  "low_freq_factor",
  "mscale",
  "mscale_all_dim",
  "original_max_position_embeddings",
  "short_factor",
  "truncate",
)
_FULL, _SLIDING = "full_attention", "sliding_attention"


def _common(theirs, *, tied=False) -> dict:
  """Fields that mean the same everywhere; `tied` is what silence means."""
  heads, width = theirs["num_attention_heads"], theirs["hidden_size"]
  sizes = dict(
    num_layers=theirs["num_hidden_layers"],
    width=width,
    num_heads=heads,
    num_kv_heads=theirs.get("num_key_value_heads") or heads,
    head_dim=theirs.get("head_dim") or width // heads,
    mlp_width=theirs["intermediate_size"],
    vocab_size=theirs["vocab_size"],
  )
  for name, size in sizes.items():
    if type(size) is not int or size < 1:
      raise ValueError(f"{name} is {size!r}, no positive whole number")
  return sizes | dict(
    norm_eps=float(theirs["rms_norm_eps"]),
    tied_head=theirs.get("tie_word_embeddings", tied),
  )


def _rope(theirs, kind="", base=10_000.0) -> dict:
  """Reads the rotary embedding, as fields of LayerKind.

  Args:
    theirs: config.json.
    kind: of the layer, if rope_parameters tells them apart.
    base: if config.json does not say.
  """
  # Newer transformers keep everything under rope_parameters.
  rope = dict(theirs.get("rope_parameters") or theirs.get("rope_scaling") or {})
  if kind in rope:
    rope = dict(rope[kind])
  base = rope.pop("rope_theta", None) or theirs.get("rope_theta") or base
  rope_type = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
  rope.pop("type", None)
  scaling = None
  if rope_type == "linear":
    scaling = RopeScaling("linear", float(rope.pop("factor")))
  elif rope_type == "llama3":
    scaling = RopeScaling(
      "llama3",
      factor=float(rope.pop("factor")),
      low_freq_factor=float(rope.pop("low_freq_factor")),
      high_freq_factor=float(rope.pop("high_freq_factor")),
      original_length=rope.pop("original_max_position_embeddings"),
    )
  elif rope_type != "default":
    raise _Unsupported(
      "rope_scaling", rope_type, "of rope_type default, linear or llama3"
    )
  for name, value in rope.items():
    if value is None or name in _OF_OTHER_ROPES:
      continue
    if (name, value) != ("partial_rotary_factor", 1.0):
      raise _Unsupported(f"rope_parameters.{name}", value, "left out")
  return dict(rope_base=float(base), rope_scaling=scaling)


def _types(theirs, default: Callable[[int], bool]) -> list[str]:
  """Returns each layer's type; `default` says which slide if they do not."""
  num_layers = theirs["num_hidden_layers"]
  types = theirs.get("layer_types") or [
    _SLIDING if default(i) else _FULL for i in range(num_layers)
  ]
  if len(types) != num_layers or not {*types} <= {_FULL, _SLIDING}:
    raise _Unsupported(
      "layer_types", types, f"{_FULL} or {_SLIDING}, one per layer"
    )
  return types


def _layers(kinds: list[LayerKind]) -> dict:
  """Returns the fields that describe layers; shorter if all are plain."""
  base = next((k.rope_base for k in kinds if k.rope_base is not None), 10_000.0)
  plain = all(kind == LayerKind(rope_base=base) for kind in kinds)
  return dict(rope_base=base, layer_kinds=() if plain else tuple(kinds))


def _alike(theirs, window=None, slides=lambda i: False) -> dict:
  """Layers with one rotary embedding, of which some may have a window."""
  rope = _rope(theirs)
  types = _types(theirs, slides if window else lambda i: False)
  return _layers(
    [LayerKind(window if t == _SLIDING else None, **rope) for t in types]
  )


def _llama(theirs):
  return _common(theirs) | _alike(theirs)


def _mistral(theirs):
  every = lambda i: True
  # transformers does not look at layer_types here: all layers are alike.
  expected = _SLIDING if theirs["sliding_window"] else _FULL
  if {*(theirs.get("layer_types") or [expected])} != {expected}:
    raise _Unsupported("layer_types", theirs["layer_types"], "left out")
  return _common(theirs) | _alike(theirs, theirs["sliding_window"], every)


def _olmo2(theirs):
  return _llama(theirs) | dict(norms="post", qk_norm="width")


def _qwen_window(theirs):
  return theirs["sliding_window"] if theirs.get("use_sliding_window") else None


def _qwen2(theirs):
  late = lambda i: i >= theirs.get("max_window_layers", 28)
  layers = _alike(theirs, _qwen_window(theirs), late)
  return _common(theirs) | layers | dict(qkv_bias=True)


def _qwen3(theirs):
  return _qwen2(theirs) | dict(qkv_bias=False, qk_norm="head")


def _qwen3_moe(theirs):
  layers = _alike(theirs, _qwen_window(theirs), lambda i: True)
  return (
    _common(theirs)
    | layers
    | dict(
      qk_norm="head",
      mlp_width=theirs["moe_intermediate_size"],
      num_experts=theirs.get("num_experts") or theirs["num_local_experts"],
      experts_per_token=theirs["num_experts_per_tok"],
      norm_expert_weights=theirs.get("norm_topk_prob", False),
    )
  )


def _smollm3(theirs):
  window, num_layers = _qwen_window(theirs), theirs["num_hidden_layers"]
  interval = theirs.get("no_rope_layer_interval", 4)
  has_rope = theirs.get("no_rope_layers") or [
    (i + 1) % interval for i in range(num_layers)
  ]
  types = _types(theirs, lambda i: window is not None and not has_rope[i])
  rope, none = _rope(theirs, base=2_000_000.0), dict(rope_base=None)
  kinds = [
    LayerKind(
      window if kind == _SLIDING else None, **(rope if rotates else none)
    )
    for kind, rotates in zip(types, has_rope)
  ]
  return _common(theirs, tied=True) | _layers(kinds)


def _gemma(theirs) -> dict:
  """What Gemma 2 and 3 have in common."""
  common = _common(theirs, tied=True)
  return common | dict(
    mlp="gated_gelu",
    norms="both",
    norm_plus_one=True,
    embed_scale=math.sqrt(common["width"]),
    query_scale=theirs["query_pre_attn_scalar"] ** -0.5,
  )


def _gemma2(theirs):
  layers = _alike(theirs, theirs["sliding_window"], lambda i: i % 2 == 0)
  return (
    _gemma(theirs)
    | layers
    | dict(
      attention_soft_cap=theirs["attn_logit_softcapping"],
      final_soft_cap=theirs["final_logit_softcapping"],
    )
  )


def _gemma3(theirs):
  pattern = theirs.get("sliding_window_pattern", 6)
  local = theirs.get("rope_local_base_freq") or 10_000.0
  if "rope_parameters" in theirs:
    sliding = _rope(theirs, _SLIDING, local)
  else:  # here rope_theta and rope_scaling are those of the global layers
    sliding = dict(rope_base=float(local))
  ropes = {_FULL: _rope(theirs, _FULL, 1_000_000.0), _SLIDING: sliding}
  window = {_FULL: None, _SLIDING: theirs["sliding_window"]}
  types = _types(theirs, lambda i: (i + 1) % pattern > 0)
  layers = _layers([LayerKind(window[t], **ropes[t]) for t in types])
  return _gemma(theirs) | layers | dict(qk_norm="head")


# -- the table -----------------------------------------------------------------

_WINDOWS = ("sliding_window", "use_sliding_window")
_GEMMA: dict[str, Any] = dict(
  reads=(
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "hidden_act",  # older than hidden_activation, and not used
    "query_pre_attn_scalar",
    "rope_local_base_freq",
    "sliding_window",
  ),
  fixed={"hidden_activation": ("gelu_pytorch_tanh", None)},
)

# By config.json's model_type.
FAMILIES: dict[str, Family] = {
  "llama": Family(_llama, weights.LLAMA),
  "mistral": Family(_mistral, weights.LLAMA, ("sliding_window",)),
  "smollm3": Family(_smollm3, weights.LLAMA, (*_WINDOWS, "no_rope_layers")),
  # Qwen2 has its biases whatever attention_bias says.
  "qwen2": Family(
    _qwen2, weights.LLAMA | weights.BIASES, (*_WINDOWS, "attention_bias")
  ),
  "qwen3": Family(_qwen3, weights.LLAMA | weights.QK_NORMS, _WINDOWS),
  "qwen3_moe": Family(
    _qwen3_moe,
    weights.ENDS
    | weights.ATTENTION
    | weights.QK_NORMS
    | weights.PRE_NORMS
    | weights.EXPERTS,
    (*_WINDOWS, "num_experts", "num_local_experts"),
    {"decoder_sparse_step": (1, None), "mlp_only_layers": ([], None)},
  ),
  "gemma2": Family(_gemma2, weights.PLAIN | weights.BOTH_NORMS, **_GEMMA),
  "gemma3_text": Family(
    _gemma3,
    weights.PLAIN | weights.BOTH_NORMS | weights.QK_NORMS,
    _GEMMA["reads"],
    _GEMMA["fixed"]
    | {"attn_logit_softcapping": (None,), "final_logit_softcapping": (None,)},
  ),
  "olmo2": Family(
    _olmo2, weights.PLAIN | weights.POST_NORMS | weights.QK_NORMS
  ),
}
