"""Which parts of a method need each other: checks of an arm as a whole."""

import ml_collections

from prefixrl_jax.learner import advantages
from prefixrl_jax.prefixes.hints import takes_hints
from prefixrl_jax.settings import arms


def check_method(c: ml_collections.ConfigDict, name: str, check) -> None:
  """Checks what an arm's loss, advantages and experience ask of each other.

  Args:
    c: the whole config.
    name: of the arm.
    check: (condition, message) raises UserError.
  """
  arm, path = c.arms[name], f"config.arms.{name}"
  how, num_samples = arms.learner_of(c, arm), arms.num_samples(c, arm)
  for field in ("row_length", "rows_per_microbatch"):
    check(
      field not in arm.learner,
      f"{path}.learner.{field}: it is one for all arms; set"
      f" config.learner.{field}.",
    )
  parts = {
    "loss.name=ppo": arm.loss.name == "ppo",
    "learner.advantage=gae": how.advantage == advantages.GAE,
    "learner.critic.kind=head (or trunk)": how.critic.kind != "none",
  }
  missing = [part for part, is_there in parts.items() if not is_there]
  check(
    len(missing) in (0, len(parts)),
    f"{path}: PPO's loss, gae and a critic need each other; what is missing is"
    f" {' and '.join(missing)}.",
  )
  check(
    num_samples >= 0,
    f"{path}.trace_lanes = {arm.trace_lanes} is more than the group's size,"
    f" {arms.group_size(c, arm)}.",
  )
  baseline = how.advantage != advantages.GAE and how.trace_advantage == "group"
  check(
    not baseline or arms.group_size(c, arm) >= 2,
    f"{path}: a group of {arms.group_size(c, arm)} is its own baseline, so that"
    " nothing is learnt; raise group_size, or, with traces, set"
    " learner.trace_advantage=reward.",
  )
  check(
    num_samples != 1 or baseline or how.advantage == advantages.GAE,
    f"{path}: a single completion is its own baseline; raise group_size.",
  )
  _check_traces(arm, how, path, check)
  if not num_samples:
    check(
      arm.schedule.name != "adaptive" and how.silent_groups != "resample",
      f"{path} samples nothing (group_size - trace_lanes = 0), so no schedule"
      " can adapt and no group be resampled.",
    )
  if arms.uses_hints(arm):
    check(
      takes_hints(c.problems.task),
      f"{path}.given = 'hint': the alphabet of {c.problems.task} has no way"
      " to write a hint into a prompt; set it to 'prefix', or take a task of"
      " text.",
    )
  check(
    how.num_minibatches <= c.train.prompts_per_step,
    f"{path}: {how.num_minibatches} mini-batches of"
    f" config.train.prompts_per_step = {c.train.prompts_per_step} problems.",
  )
  check(
    not how.kl_target or how.kl_coefficient > 0,
    f"{path}: learner.kl_target adapts learner.kl_coefficient, which is 0; set"
    " both or neither.",
  )
  share = arm.prefixed_share + arm.easy_share
  check(
    share <= 1,
    f"{path}: prefixed_share and easy_share together are {share:g}, above 1.",
  )
  check(
    not arm.easy_share or c.problems.get("num_easy_train", 1) > 0,
    f"{path}.easy_share = {arm.easy_share:g}, but there are no easy problems to"
    " train on: config.problems.num_easy_train is 0.",
  )
  dual_clip = arm.loss.get("dual_clip", 0)
  check(
    not dual_clip or dual_clip > 1,
    f"{path}.loss.dual_clip = {dual_clip:g} must be above 1, or 0: any.",
  )


def _check_traces(arm, how, path: str, check) -> None:
  """What an arm asks that learns from whole traces."""
  if arm.loss.name == "luffy":
    check(
      arm.trace_lanes > 0,
      f"{path}.loss = luffy learns from traces; set trace_lanes to 1.",
    )
  if arm.trace_lanes:
    check(
      how.advantage != advantages.GAE,
      f"{path}: a critic has no say on traces; trace_lanes must be 0 with gae.",
    )
    check(
      not how.kl_coefficient or how.kl_in == "loss",
      f"{path}: traces have no KL in their reward; learner.kl_in must be loss.",
    )
  check(
    not (arm.easy_share and arm.trace_lanes),
    f"{path}: easy problems have no traces; easy_share or trace_lanes must be"
    " 0.",
  )
