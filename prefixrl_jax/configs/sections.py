"""Sections that all configs have alike, each field with its default.

Values are the paper's unless a comment says otherwise. A config gives as
keywords the fields that have no default, and those whose default it does not
want.
"""

from typing import Any

# Prefixes that half of the completions solve, or nearly so.
ADAPTIVE = dict(name="adaptive", low=0.25, high=0.75)


def policy_gradient(**own: Any) -> dict[str, Any]:
  """Returns the loss of that name: REINFORCE, or with an importance ratio."""
  return (
    dict(
      name="policy_gradient",
      importance="none",  # or token, sequence (GSPO), trajectory
      clip_low=0.0,  # 0: none
      clip_high=0.0,
      dual_clip=0.0,
      detached=False,  # True: the ratio only weighs log pi (CISPO)
    )
    | own
  )


def ppo(**own: Any) -> dict[str, Any]:
  """Returns the loss of that name; it needs a critic."""
  return (
    dict(
      name="ppo",
      clip_low=0.2,
      clip_high=0.2,
      dual_clip=0.0,
      value_clip=0.2,
      value_coefficient=0.1,
    )
    | own
  )


def luffy(**own: Any) -> dict[str, Any]:
  """Returns the loss of that name; it needs traces beside the completions."""
  return dict(name="luffy", shaping="ratio", shift=0.1) | own


def arm(
  *,
  learning_rate: float,
  prefixed_share: float = 0.0,
  easy_share: float = 0.0,
  given: str = "prefix",
  sft_epochs: int = 0,
  group_size: int = 0,
  trace_lanes: int = 0,
  schedule: dict[str, Any] | None = None,
  loss: dict[str, Any] | None = None,
  learner: dict[str, Any] | None = None,
) -> dict[str, Any]:
  """Returns a row of config.arms.

  Args:
    learning_rate: of RL, at its peak.
    prefixed_share: of a step's problems.
    easy_share: of a step's problems, those that screening finds not hard.
    given: how they are given a share of a trace: as a "prefix" of the answer,
      or as a "hint" in the prompt.
    sft_epochs: on the traces, before RL.
    group_size: completions of a problem, traces included; 0:
      config.train.completions_per_prompt.
    trace_lanes: whole traces of a problem in its group.
    schedule: which prefixes a step has, see prefixes/schedules.py.
    loss: of the updates, see learner/losses.py.
    learner: fields of config.learner that the arm has otherwise.
  """
  return dict(
    prefixed_share=prefixed_share,
    easy_share=easy_share,
    given=given,
    sft_epochs=sft_epochs,
    group_size=group_size,
    trace_lanes=trace_lanes,
    learning_rate=learning_rate,
    schedule=schedule or dict(name="mixture"),
    loss=loss or policy_gradient(),
    learner=learner or {},
  )


def arms(learning_rates: dict[str, float], **own: Any) -> dict[str, Any]:
  """Returns config.arms: every method, each a row.

  Args:
    learning_rates: of RL, by arm; "rl" for those that are not named.
    **own: sft_epochs and prefixed_share.
  """
  rate = lambda name: learning_rates.get(name, learning_rates["rl"])
  clipped = policy_gradient(importance="token", clip_low=0.2, clip_high=0.2)
  rows: dict[str, dict[str, Any]] = dict(
    rl=dict(),
    # PPO's clip and four updates a batch, without a critic.
    rl_clipped=dict(loss=clipped, learner=dict(num_minibatches=4)),
    # Eight times the samples of a problem.
    rl_n64=dict(group_size=64),
    # What POPE (arXiv 2601.18779) finds not to help on hard problems.
    rl_entropy=dict(learner=dict(entropy_coefficient=1e-3)),
    rl_clip_higher=dict(
      loss=clipped | dict(clip_high=0.28), learner=dict(num_minibatches=4)
    ),
    rl_easy=dict(easy_share=0.5),
    # DAPO (2503.14476): groups without signal are replaced, what is cut off
    # is not learnt from.
    dapo=dict(
      loss=clipped | dict(clip_high=0.28),
      learner=dict(
        num_minibatches=4,
        silent_groups="resample",
        truncated="masked",
        advantage="group_std",
      ),
    ),
    dr_grpo=dict(learner=dict(normalization="length")),
    cispo=dict(
      loss=policy_gradient(importance="token", clip_high=0.28, detached=True),
      learner=dict(num_minibatches=4),
    ),
    gspo=dict(
      loss=policy_gradient(
        importance="sequence", clip_low=3e-4, clip_high=4e-4
      ),
      learner=dict(
        num_minibatches=4, normalization="sequence", advantage="group_std"
      ),
    ),
    ppo=dict(
      loss=ppo(),
      learner=dict(
        advantage="gae", num_minibatches=4, critic=dict(kind="head")
      ),
    ),
    sft_rl=dict(sft_epochs=own["sft_epochs"]),
    off_policy=dict(
      group_size=1,
      trace_lanes=1,
      loss=policy_gradient(importance="token"),
      learner=dict(trace_advantage="reward"),
    ),
    # Truncated importance weights in place of the ratio's gradient.
    off_policy_truncated=dict(
      group_size=1,
      trace_lanes=1,
      loss=policy_gradient(importance="token", clip_high=1.0, detached=True),
      learner=dict(trace_advantage="reward"),
    ),
    luffy=dict(
      trace_lanes=1,
      loss=luffy(),
      learner=dict(normalization="length", entropy_coefficient=1e-3),
    ),
    # RL, and beside it SFT on the trace: LUFFY's own baseline.
    rl_sft_loss=dict(
      trace_lanes=1,
      loss=luffy(shaping="log"),
      learner=dict(trace_advantage="reward", trace_mean=True),
    ),
    hint=dict(prefixed_share=own["prefixed_share"], given="hint"),
    prefixrl=dict(prefixed_share=own["prefixed_share"]),
    prefixrl_only=dict(prefixed_share=1.0),
    prefixrl_adaptive=dict(
      prefixed_share=own["prefixed_share"], schedule=ADAPTIVE
    ),
  )
  return {
    name: arm(learning_rate=rate(name), **row) for name, row in rows.items()
  }


def wandb() -> dict[str, Any]:
  """Returns config.wandb: Weights & Biases, which gets each run's metrics."""
  return dict(
    project="",  # none: nothing is logged there
    mode="",  # that of WANDB_MODE; or online, offline
    name="",  # before a run's own, as "rl seed 0"
    group="",  # of all runs of a workdir, if they are to be one
    resume=True,  # a resumed run goes on in W&B's, or begins another
  )


def profile() -> dict[str, Any]:
  """Returns config.profile: what a step spends its time on."""
  return dict(steps=())  # of each run, as (3, 4): docs/profiling.md


def mesh(**own: Any) -> dict[str, Any]:
  """Returns config.mesh: devices by what they share; gives data and fsdp."""
  return dict(tensor=1, expert=1) | own


def model(**own: Any) -> dict[str, Any]:
  """Returns config.model: which policy is trained; gives dtype and remat."""
  return (
    dict(
      folder="",  # a Hugging Face folder, or ORGANISATION/MODEL[@REVISION]
      base="",  # of an embedded task: a safetensors file
      param_dtype="float32",
    )
    | own
  )


def rewards() -> dict[str, Any]:
  """Returns config.rewards: what judges, and what that may cost."""
  return dict(
    verifier="",  # rewards/verifiers.py has the names; empty: the task's own
    function="",  # FILE.py:NAME, in its place; docs/own_tasks.md
    num_workers=0,  # processes; 0: one per core
    timeout_seconds=5.0,  # of a comparison, or of one test of a program
    # The rest is for programs.
    total_seconds=60.0,  # of all tests of one
    memory_mb=512,  # of one
    sandbox="bubblewrap",  # or unsafe_subprocess, within a container of yours
    partial=False,  # True: the share of tests passed is the reward
  )


def screen(**own: Any) -> dict[str, Any]:
  """Returns config.screen; gives num_samples, rows and lanes."""
  # Hard are problems that no sample solves.
  return dict(max_correct=0, problems_per_part=64) | own


def collect(**own: Any) -> dict[str, Any]:
  """Returns config.collect: our own traces; gives budget, rows and lanes."""
  return dict(traces_per_problem=1, problems_per_part=64) | own


def prefixes() -> dict[str, Any]:
  """Returns config.prefixes: where traces are cut."""
  return dict(num_cuts=3, low=0.4, high=0.8)


def rollouts(**own: Any) -> dict[str, Any]:
  """Returns config.rollouts; gives the three lengths."""
  return (
    dict(
      temperature=1.0,  # left open by the paper
      top_k=0,  # off, as is top_p: both bias the ratio
      top_p=1.0,
    )
    | own
  )


def learner(**own: Any) -> dict[str, Any]:
  """Returns config.learner; gives rows_per_microbatch and row_length."""
  return (
    dict(
      # Left open by the paper: optimizer, KL, clip, length normalisation.
      optimizer=dict(
        b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0, clip_norm=1.0
      ),
      warmup_steps=0,
      decay_steps=0,
      advantage="group_mean",  # or leave_one_out, group_std, gae
      discount=1.0,
      gae_decay=1.0,  # lambda of gae; the next one is of its returns
      value_decay=1.0,
      decay_by_length=0.0,  # VAPO's alpha; 0: off
      whiten=False,  # advantages to mean 0 and variance 1 over a step's tokens
      critic=dict(
        kind="none",  # or head, on the policy's trunk; trunk, its own
        trunk_gradient=True,
        learning_rate=0.0,  # 0: the arm's
        first_steps=0,  # updates of the critic alone, at the start
      ),
      trace_advantage="group",  # or reward, pass_rate: of a trace in a group
      trace_mean=False,  # True: traces count by the mean of their tokens
      normalization="token",  # or length (Dr. GRPO), sequence
      num_minibatches=1,  # updates of a step, each with a part of it
      num_epochs=1,
      truncated="wrong",  # or masked: not learnt from (DAPO)
      silent_groups="train",  # those of equal rewards; or skip, resample
      signal_of="reward",  # or outcome: whether right and wrong are in a group
      resample_limit=3,  # draws a step
      hold_without_signal=False,  # True: such an update changes nothing
      entropy_coefficient=0.0,
      kl_coefficient=0.0,  # 0: off
      kl_estimator="k3",  # GRPO's; k1 and k2: see learner/kl.py
      kl_in="loss",  # or reward
      kl_target=0.0,  # of a token's, to which the coefficient adapts; 0: fixed
      kl_horizon=10_000,  # completions
      norms_by_kind=False,  # True: gradients with and without prefix told apart
      skip_nonfinite=False,  # True: leave such updates out, instead of stopping
      logits_chunk_length=512,
    )
    | own
  )


def sft(*, batch_size: int, learning_rate: float) -> dict[str, Any]:
  """Returns config.sft: on the traces, before RL."""
  return dict(batch_size=batch_size, learning_rate=learning_rate)


def train(**own: Any) -> dict[str, Any]:
  """Returns config.train: every arm's budget, and a step's size.

  Gives flops, prompts_per_step, checkpoint_every and log_every.
  """
  return (
    dict(
      max_steps=0,  # no limit but the budget
      rows=0,  # prompts that are sampled at a time; 0: all of a step's
      cuts_together=False,  # True: a step has all cuts of a trace, on one trunk
      completions_per_prompt=8,
      checkpoints_kept=2,
      # Of a run's rollouts, to be read: docs/rollouts.md.
      rollouts_kept=dict(share=0.1, max_megabytes=200),
    )
    | own
  )


def evals(**own: Any) -> dict[str, Any]:
  """Returns config.evals.

  Gives rows, lanes, temperature, num_samples, curve_points and sets.
  """
  return (
    dict(
      # The final evaluation: another one is added beside what is there.
      final_problems=0,  # of a split, at most; all
      fractions=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
      fraction_samples=16,
      # The curve: part of a run, which another one would make another run.
      curve_temperature=own["temperature"],
      curve_samples=8,
      curve_problems=0,  # of a split, at most; all
      # Of a strategy, as "wait|check": what share of completions has it.
      marker="",
      run_sets="",  # rows of `sets` to evaluate on as well, + between
    )
    | own
  )


def problem_set(*, task: str, **own: Any) -> dict[str, Any]:
  """Returns a row of config.evals.sets: problems only to evaluate on.

  Args:
    task: as config.problems.task.
    **own: fields as in config.problems.
  """
  return (
    dict(
      task=task,
      level="",
      file="",
      split="",
      name="",
      problem_field="problem",
      answer_field="answer",
      answer_pattern="",
      id_field="",
      num_problems=0,  # all that there are
      num_samples=0,  # evals.num_samples
    )
    | own
  )


def lora() -> dict[str, Any]:
  """Returns config.lora: adapters are trained, the base is frozen."""
  return dict(
    rank=0,  # of an adapter; 0: all parameters are trained, there is none
    alpha=16.0,  # adapters count alpha / rank
    targets="all",  # or attention, mlp, names: "query+value" (docs/lora.md)
  )


def traces() -> dict[str, Any]:
  """Returns config.traces: other people's traces, `--stage=import`."""
  return dict(
    # JSONL or Parquet of other people's traces, or rules:TASK for worked ones
    # by rule; --traces sets it.
    file="",
    model="",  # who wrote them, where no column says so
    # Columns; empty: guessed, see docs/imported_traces.md.
    problem_field="",
    id_field="",
    text_field="",
    reasoning_field="",
    model_field="",
    finish_field="",
    verdict_field="",
  )


def export() -> dict[str, Any]:
  """Returns config.export: a run's policy as a folder, `--stage=export`."""
  return dict(
    lora="merged",  # adapters added in; or peft: the adapters alone, for peft
    arm="",  # the first of run_arms
    seed=-1,  # the first of seeds
    step=-1,  # the last one's checkpoint
    directory="",  # export/ARM/seed_N/model in the workdir
    hub="",  # ORGANISATION/NAME: pushed there, too; its token is HF_TOKEN
    dtype="",  # that of the parameters; or bfloat16, float32
    shard_gigabytes=5.0,  # of the largest weight file
  )
