"""The stages, top to bottom: from problems to a compute-matched report.

Every stage leaves an artifact in the workdir. A complete one is not made
again; one that was cut off goes on where it stopped; one that was made with
other settings is an error.
"""

from collections.abc import Collection

from prefixrl_jax.artifacts import write_json
from prefixrl_jax.stages import (
  collect,
  cut,
  evaluate,
  export,
  import_traces,
  pretrain,
  report,
  screen,
  show_problems,
  train,
)
from prefixrl_jax.workspace import Workspace

STAGES = {
  "pretrain": pretrain,
  "import": import_traces,
  "screen": screen,
  "collect": collect,
  "cut": cut,
  "train": train,
  "evaluate": evaluate,
  "report": report,
}
_WITH_THOSE_ON_DEMAND = {
  "problems": show_problems,
  **STAGES,
  "export": export,
}


class Pipeline(Workspace):
  """One run: the stages, each from artifacts to artifacts."""

  def run(self, stages: Collection[str]) -> None:
    """Runs the stages named, in their order."""
    if set(stages) != {"problems"}:  # it leaves nothing
      # For people; what an artifact was made from is in its manifest.
      write_json(self.workdir / "run_config.json", self.config.to_dict())
    try:
      for name, stage in _WITH_THOSE_ON_DEMAND.items():
        if name in stages:
          stage.run(self)
    finally:
      if "verifier" in vars(self):  # it was needed
        self.verifier.close()
