"""The fields of config.learner, and the options of losses."""

from prefixrl_jax.learner.advantages import (
  ESTIMATORS,
  GAE,
  IMPORTANCE,
  KL_ESTIMATORS,
  NORMALIZATIONS,
)
from prefixrl_jax.settings.rules import (
  COUNT,
  COUNT_OR_NONE,
  RATE,
  SHARE,
  SWITCH,
  one_of,
  real,
)
from prefixrl_jax.settings.schema import OPTIMIZER, Field, Section, how

_WEIGHT = real(0, 1e30)
_CLIPS = {
  "clip_low": Field(SHARE, "how far the ratio may go below 1; 0: any"),
  "clip_high": Field(_WEIGHT, "how far the ratio may go above 1; 0: any"),
  "dual_clip": Field(_WEIGHT, "largest loss of a token, times -A; 0: any"),
}
LOSSES = {
  "policy_gradient": {
    "importance": Field(one_of(*IMPORTANCE), "level of the importance ratio"),
    **_CLIPS,
    "detached": Field(SWITCH, "whether the ratio only weighs log pi"),
  },
  "ppo": {
    **_CLIPS,
    "value_clip": Field(_WEIGHT, "how far a value may move; 0: any"),
    "value_coefficient": Field(_WEIGHT, "weight of the critic's error"),
  },
  "luffy": {
    "shaping": Field(
      one_of("ratio", "sqrt", "log"), "shaping of a trace's probabilities x"
    ),
    "shift": Field(RATE, "s in the shaping x / (x + s)"),
  },
}

LEARNER: Section = {
  "optimizer": OPTIMIZER,
  "warmup_steps": Field(
    COUNT_OR_NONE, "updates of linear warm-up of the learning rate"
  ),
  "decay_steps": Field(
    COUNT_OR_NONE, "updates of cosine decay to a tenth; 0: constant"
  ),
  "advantage": Field(
    one_of(*ESTIMATORS, GAE),
    "how rewards are compared within a group, or with a critic",
  ),
  "discount": Field(RATE, "discount of the reward per token of the completion"),
  "gae_decay": Field(SHARE, "lambda of generalised advantages"),
  "value_decay": Field(SHARE, "lambda of the critic's returns"),
  "decay_by_length": Field(
    _WEIGHT, "VAPO's alpha: lambda is 1 - 1 / (alpha length); 0: off"
  ),
  "whiten": Field(SWITCH, "whether advantages get mean 0 and variance 1"),
  "critic": {
    "kind": Field(
      one_of("none", "head", "trunk"),
      "a head on the policy's trunk, or a model with a trunk of its own",
    ),
    "trunk_gradient": Field(SWITCH, "whether its error trains its trunk"),
    "learning_rate": Field(real(0, 1), "peak learning rate; 0: the arm's"),
    "first_steps": Field(
      COUNT_OR_NONE, "updates that train only the critic, at the start"
    ),
  },
  "trace_advantage": Field(
    one_of("group", "reward", "pass_rate"),
    "advantage of a trace: as of a completion, its reward, or that minus the"
    " base policy's pass rate",
  ),
  "trace_mean": Field(
    SWITCH, "whether traces count by the mean over their tokens"
  ),
  "normalization": Field(
    one_of(*NORMALIZATIONS),
    "divisor of the loss: see NORMALIZATIONS in learner/advantages.py",
  ),
  "num_minibatches": Field(COUNT, "mini-batches that a step is divided into"),
  "num_epochs": Field(COUNT, "passes over a step's mini-batches"),
  "truncated": Field(
    one_of("wrong", "masked"), "how truncated completions are learnt from"
  ),
  "silent_groups": Field(
    one_of("train", "skip", "resample"),
    "what happens to groups without signal",
  ),
  "signal_of": Field(
    one_of("reward", "outcome"), "what must differ for a group to have signal"
  ),
  "resample_limit": Field(COUNT, "maximum draws per step when resampling"),
  "hold_without_signal": Field(
    SWITCH, "whether an update without signal leaves the optimizer alone"
  ),
  "entropy_coefficient": Field(_WEIGHT, "weight of the entropy bonus"),
  "kl_coefficient": Field(_WEIGHT, "weight of the KL to the base policy"),
  "kl_estimator": Field(
    one_of(*KL_ESTIMATORS), "estimator of the KL: see learner/kl.py"
  ),
  "kl_in": Field(one_of("loss", "reward"), "where the KL is added"),
  "kl_target": Field(
    _WEIGHT, "KL per token that the coefficient adapts to; 0: fixed"
  ),
  "kl_horizon": Field(COUNT, "completions over which the coefficient adapts"),
  "norms_by_kind": how(
    SWITCH, "whether gradient norms with and without prefix are told apart"
  ),
  # Without it, a run in which it would change anything stops with an error.
  "skip_nonfinite": how(
    SWITCH, "whether to skip updates that are NaN or infinite"
  ),
  "rows_per_microbatch": how(
    COUNT_OR_NONE, "packed rows per micro-batch; 0: as many as fit"
  ),
  "logits_chunk_length": how(
    COUNT, "tokens whose logits exist at the same time"
  ),
  "row_length": how(COUNT, "tokens of a packed row, or of the longest tree"),
}
