"""A machine that you can log in to.

  python -m launch.ssh --host=me@gpu7 --config=configs/math.py \\
      --slice=h100:8 --workdir=/mnt/shared/runs/math
"""

import argparse

from launch import common
from prefixrl_jax.types import UserError

_BODY = """
on() { ssh -o ServerAliveInterval=30 -- "$host" "$1"; }
copy() { scp -q -- "$@" "$host:$folder/"; }
# shellcheck source=launch/remote.sh
source "$launch/remote.sh"

send
while true; do
  code=0
  attend || code=$?
  case $code in
    143 | 255) # preempted, or the machine is restarting
      echo "$host: the job was ended from outside ($code); again in 30 s" >&2
      sleep 30
      ;;
    *) exit "$code" ;;
  esac
done
"""


def _add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--host", required=True, help="[user@]name, as for ssh")


def _render(job: common.Job, options: argparse.Namespace) -> common.Rendered:
  if job.slice.hosts > 1:
    raise UserError(
      f"--slice: these are {job.slice.hosts} hosts, and launch.ssh is for one."
      " Start the program on each, with its own --coordinator, --num_processes"
      " and --process_id (docs/pods.md)."
    )
  values = {"host": options.host} | common.remote_values(job)
  about = "Installs the project on a machine and runs the job there."
  return common.Rendered(
    {
      "run.sh": common.run_script(about, values, _BODY),
      "job.sh": common.job_script(job),
    }
  )


LAUNCHER = common.Launcher(
  name="ssh",
  about=__doc__.splitlines()[0],
  extras=("tpu", "cuda12"),
  add_flags=_add_flags,
  render=_render,
  has_spot=False,
)

if __name__ == "__main__":
  common.main(LAUNCHER)
