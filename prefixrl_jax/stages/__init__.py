"""The stages, each from artifacts to artifacts: what the command runs.

Their names, in their order, and where each is; a stage is imported when it is
run.
"""

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
