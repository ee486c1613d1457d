"""What arms and splits are called, and arms' colours, wherever they are shown.

An arm of the user's own has its own name.
"""

from collections.abc import Iterable

# Okabe and Ito's colours, which colour-blind people can tell apart, and a few
# more; an arm has the same one in every figure and every run.
_COLOURS = {
  "base": "#000000",
  "prefixrl": "#d55e00",
  "prefixrl_only": "#e69f00",
  "rl": "#0072b2",
  "sft_rl": "#009e73",
  "ppo": "#cc79a7",
  "off_policy": "#56b4e9",
  "luffy": "#8c564b",
  "hint": "#b8a800",
}
_MORE_COLOURS = ("#7f7f7f", "#9467bd", "#17becf", "#637939", "#e377c2")
_ARMS = {
  "base": "Base model",
  "prefixrl": "PrefixRL",
  "prefixrl_only": "PrefixRL, prefixed only",
  "prefixrl_adaptive": "PrefixRL, adaptive",
  "rl": "RL",
  "rl_clipped": "RL, clipped",
  "rl_n64": "RL, 64 samples",
  "rl_entropy": "RL, entropy bonus",
  "rl_clip_higher": "RL, clip-higher",
  "rl_sft_loss": "RL with SFT loss",
  "dapo": "DAPO",
  "dr_grpo": "Dr. GRPO",
  "cispo": "CISPO",
  "gspo": "GSPO",
  "ppo": "PPO",
  "sft_rl": "SFT + RL",
  "off_policy": "Off-policy",
  "off_policy_truncated": "Off-policy, truncated",
  "luffy": "LUFFY",
  "hint": "RL with hints",
}
SPLITS = {
  "train": "training",
  "heldout": "held-out",
  "heldout_hard": "hard held-out",
  "easy": "easy",
}


def arm_label(arm: str) -> str:
  """Returns an arm's display name."""
  return _ARMS.get(arm, arm)


def arm_colours(arms: Iterable[str]) -> dict[str, str]:
  """Returns a colour per arm; those without a fixed one share the rest."""
  others = sorted(set(arms) - _COLOURS.keys())
  return _COLOURS | {
    arm: _MORE_COLOURS[i % len(_MORE_COLOURS)] for i, arm in enumerate(others)
  }


def split_label(split: str) -> str:
  """Returns a split's display name; a set of problems has its own."""
  return SPLITS.get(split, split)


def source_label(policy: str) -> str:
  """Returns the display name of a trace's author, a long hash shortened."""
  name, at, weights = policy.rpartition("@")
  return f"{name}{at}{weights[:8]}" if at else policy
