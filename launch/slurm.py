"""A Slurm cluster's GPUs, from a login node that shares storage with them.

  python -m launch.slurm --config=configs/math.py --slice=h100:8 \\
      --workdir=/shared/runs/math --time=12:00:00 --partition=gpu
"""

import argparse
import shlex

from launch import common
from prefixrl_jax.types import UserError

_RUN = """
project=$folder/project
mkdir -p "$project"
git -C "$launch/.." archive --format=tar "$commit" | tar -xf - -C "$project"
cp job.sh job.sbatch "$folder/"
if [ -z "$image" ]; then bash "$project/launch/install.sh" "$extras"; fi

rm -f "$folder/code"
touch "$folder/log"
# Values of --secrets are in the environment, which sbatch passes on.
id=$(sbatch --parsable --chdir="$folder" "$folder/job.sbatch")
id=${id%%;*}
echo "job $id; its log is $folder/log" >&2
# Ctrl-C and SIGTERM: all processes of the job are told, and it is not requeued.
# shellcheck disable=SC2329
stop() {
  trap '' INT TERM
  scancel --full --signal=TERM "$id"
}
trap stop INT TERM
tail -n +1 -F "$folder/log" &
tail=$!
while squeue --noheader --jobs="$id" 2> /dev/null | grep -q .; do
  sleep 15 &
  wait "$!" || true
done
kill "$tail" || true
exit "$(cat "$folder/code" 2> /dev/null || echo 1)"
"""

_BATCH = """
# Near the time limit Slurm tells the program alone; it saves, exits with 143,
# and the job is queued again. A preempted job is told as a whole, and is queued
# again by Slurm itself; so is one of a failed node. A cancelled one is not.
told=
trap 'told=yes' TERM
code=0
rm -f {folder}/code
# A failed node has left a lock in the workdir: of this very job's last turn.
if [ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ]; then rm -f {lock}; fi
srun --kill-on-bad-exit=1 --chdir={folder}/project \\
  {container}bash {folder}/job.sh || code=$?
echo "$code" > {folder}/code
if [ "$code" = 143 ] && [ -z "$told" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def _add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("--time", default="24:00:00", help="limit of one turn of the job")
  add("--partition", help="of the cluster")
  add("--account", help="that is charged")
  add("--image", default="", help="of docker/cuda.Dockerfile, for pyxis")
  add("--sbatch", action="append", default=[], help="any other option of it")


def _render(job: common.Job, options: argparse.Namespace) -> common.Rendered:
  parent = job.workdir.rpartition("/")[0]
  folder = f"{parent}/launch/{job.name}"
  settings = [
    f"--job-name={job.name}",
    f"--nodes={job.slice.hosts}",
    "--ntasks-per-node=1",
    f"--gpus-per-node={job.slice.chips_a_host}",
    f"--time={options.time}",
    *([f"--partition={options.partition}"] if options.partition else []),
    *([f"--account={options.account}"] if options.account else []),
    f"--output={folder}/log",
    "--open-mode=append",
    "--requeue",
    f"--signal=TERM@{common.GRACE}",
    *map(_sbatch, options.sbatch),
  ]
  container = ""
  if options.image:
    mounts = f"{parent}:{parent}"
    container = (
      f"--container-image={shlex.quote(options.image)}"
      f" --container-mounts={shlex.quote(mounts)}"
      " --container-workdir=/project \\\n  "
    )
  batch = "\n".join(
    (
      "#!/usr/bin/env bash",
      *(f"#SBATCH {setting}" for setting in settings),
      "set -uo pipefail",
      "",
      _BATCH.strip().format(
        container=container,
        folder=shlex.quote(folder),
        lock=shlex.quote(f"{job.workdir}/{common.LOCK}"),
      ),
      "",
    )
  )
  values = {
    "commit": job.commit,
    "extras": job.extras,
    "folder": folder,
    "image": options.image,
  }
  about = "Submits the job and prints its log; run on a login node."
  return common.Rendered(
    {
      "run.sh": common.run_script(about, values, _RUN),
      "job.sbatch": batch,
      "job.sh": common.job_script(job),
    }
  )


def _sbatch(option: str) -> str:
  if not option.startswith("--") or not option.isprintable():
    raise UserError(
      f"--sbatch={option!r}: it must be an option of sbatch on one line, e.g."
      " --sbatch=--mem=0."
    )
  return option


LAUNCHER = common.Launcher(
  name="slurm",
  about=__doc__.splitlines()[0],
  extras=("cuda12",),
  add_flags=_add_flags,
  render=_render,
  has_spot=False,
)

if __name__ == "__main__":
  common.main(LAUNCHER)
