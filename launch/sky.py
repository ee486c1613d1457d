"""TPUs or GPUs of any cloud that SkyPilot knows, as a managed job.

  python -m launch.sky --slice=h100:8 --spot --config=configs/math.py \\
      --mount=gs://me-runs:/mnt/share --workdir=/mnt/share/runs/math
"""

import argparse
from typing import Any

from launch import common

_BODY = """
rm -rf project
mkdir project
git -C "$launch/.." archive "$commit" | tar -xf - -C project
cp job.sh project/

names=()
for variable in $secrets; do names+=(--secret "$variable"); done
# Its log is printed; Ctrl-C ends the printing, `sky jobs cancel` the job.
exec sky jobs launch --yes --name="$name" "${names[@]}" task.yaml
"""


def _add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("--infra", help="where, as SkyPilot says it, e.g. gcp/us-central2")
  add(
    "--mount",
    required=True,
    help="SOURCE:/PATH, a bucket's address or SkyPilot's volume, and where",
  )
  add("--image", help="of docker/cuda.Dockerfile, with its tag")


def _render(job: common.Job, options: argparse.Namespace) -> common.Rendered:
  values = {
    "commit": job.commit,
    "name": job.name,
    "secrets": " ".join(job.secrets),
  }
  about = "Copies the project's commit and launches the managed job."
  return common.Rendered(
    {
      "run.sh": common.run_script(about, values, _BODY),
      "task.yaml": common.to_yaml(_task(job, options)),
      "job.sh": common.job_script(job),
    }
  )


def _task(job: common.Job, options: argparse.Namespace) -> dict[str, Any]:
  chip = job.slice.chip
  resources: dict[str, Any] = {}
  if chip.topologies:
    resources["infra"] = options.infra or "gcp"
    resources["accelerators"] = f"{chip.sky}-{job.slice.cores}"
    resources["accelerator_args"] = {"runtime_version": chip.runtime}
  else:
    if options.infra:
      resources["infra"] = options.infra
    resources["accelerators"] = f"{chip.sky}:{job.slice.chips_a_host}"
  if options.image:
    resources["image_id"] = f"docker:{options.image}"
  resources["use_spot"] = job.spot
  # A lost machine is replaced in any case; a program that was told to end has
  # saved, and goes on. Its own errors end the job.
  resources["job_recovery"] = {
    "max_restarts_on_errors": 0,
    "recover_on_exit_codes": [143],
  }
  task: dict[str, Any] = {"name": job.name, "workdir": "project"}
  if not chip.topologies:
    task["num_nodes"] = job.slice.hosts
  task["resources"] = resources
  source, path = common.split_mount("mount", options.mount, job.workdir)
  if "://" in source:  # a cache on the machine, which is written back
    bucket = {"source": source, "mode": "MOUNT_CACHED"}
    task["file_mounts"] = {path: bucket}
  else:
    task["volumes"] = {path: source}
  if not options.image:
    task["setup"] = f"bash launch/install.sh {job.extras}"
  task["run"] = "exec bash job.sh"
  return task


LAUNCHER = common.Launcher(
  name="sky",
  about=__doc__.splitlines()[0],
  extras=("tpu", "cuda12"),
  add_flags=_add_flags,
  render=_render,
)

if __name__ == "__main__":
  common.main(LAUNCHER)
