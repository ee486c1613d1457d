"""How a run did on each kind of problem, and how many kinds took off.

  python -m benchmarks.kinds --workdir=runs/skills

Reads a finished workdir whose problems have a kind in their metadata, as those
of configs/skills.py do. Of every run it shows the final held-out accuracy of
each kind, in %, without a prefix, and how many kinds end at half or more.
"""

from absl import flags
from etils import epath

from benchmarks import measuring
from prefixrl_jax.evals import kinds

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "A finished one.", required=True
)
_FIELD = flags.DEFINE_string("field", "kind", "Of the problems' metadata.")
_JSON = measuring.define_json()


def main() -> None:
  measuring.finished(_WORKDIR.value, "evaluate")  # or says that nothing has
  rows = [*kinds.of_runs(epath.Path(_WORKDIR.value), _FIELD.value)]
  measuring.show("Held-out, in %", rows, _JSON.value, timed=False)


if __name__ == "__main__":
  measuring.run(main)
