"""What happens before a run takes off: working first after prefixes, or never.

  python -m benchmarks.takeoff --workdir=runs/demo

Reads the metrics of a finished workdir of a task that marks a strategy (as the
demo's `worked_share`). Of every run it shows, in steps of training, when the
strategy first was in half of what was sampled, after prefixes and without any;
when groups without a prefix first had signal in five steps of ten; then all its
steps, the entropy of a token without a prefix in the last ten, and the last
held-out accuracy of its curve.
"""

from absl import flags

from benchmarks import measuring
from prefixrl_jax.evals import takeoff

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "A finished one.", required=True
)
_JSON = measuring.define_json()


def main() -> None:
  rows = [
    {**run, **takeoff.of_run(trained.directory)}
    for trained, run in measuring.finished(_WORKDIR.value, "train")
  ]
  measuring.show("Steps until", rows, _JSON.value, timed=False)


if __name__ == "__main__":
  measuring.run(main)
