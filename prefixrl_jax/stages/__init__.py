"""The stages, each from artifacts to artifacts: what the command runs.

Their names, in their order, and where each is; a stage is imported when it is
run.
"""

from prefixrl_jax.types import UserError

STAGES = {
  "pretrain": "prefixrl_jax.stages.pretrain:run",
  "import": "prefixrl_jax.stages.import_traces:run",
  "screen": "prefixrl_jax.stages.screen:run",
  "collect": "prefixrl_jax.stages.collect:run",
  "cut": "prefixrl_jax.stages.cut:run",
  "train": "prefixrl_jax.stages.train:run",
  "evaluate": "prefixrl_jax.stages.evaluate:run",
  "rescore": "prefixrl_jax.stages.rescore:run",
  "report": "prefixrl_jax.stages.report:run",
}
ON_DEMAND = {
  "problems": "prefixrl_jax.stages.show_problems:run",
  "export": "prefixrl_jax.stages.export:run",
  "compile": "prefixrl_jax.stages.compile_ahead:run",
}


def chosen(names: str, traces: str = "") -> list[str]:
  """Returns the stages that --stage asks for, in their order.

  Args:
    names: with commas between; "all" are those that need not be named.
    traces: config.traces.file.

  Raises:
    UserError: there is no such stage, or they do not go together.
  """
  known = (*STAGES, *ON_DEMAND)
  # Traces are imported or collected, never both in one run.
  unused = "collect" if traces else "import"
  stages = [stage.strip() for stage in names.split(",")]
  for stage in stages:
    if stage not in (*known, "all"):
      raise UserError(
        f"there is no stage {stage!r}; known: {', '.join(known)}, all."
      )
  if unused in stages:
    raise UserError(
      f"--stage=collect: traces are imported from {traces}, none"
      " is sampled; leave out --traces or use --stage=import."
      if traces
      else "--stage=import needs --traces=FILE."
    )
  if "compile" in stages and stages != ["compile"]:
    raise UserError("--stage=compile runs by itself, without other stages.")
  if "all" in stages:
    stages += [stage for stage in STAGES if stage != unused]
  return [stage for stage in known if stage in stages]
