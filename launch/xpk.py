"""A slice of TPUs in a cluster that xpk has made.

  python -m launch.xpk --cluster=mine --zone=us-east5-b --slice=v6e:2x2 \\
      --image=us-docker.pkg.dev/me/images/prefixrl --config=configs/math.py \\
      --storage=filestore:/mnt/share --workdir=/mnt/share/runs/math
"""

import argparse
import shlex

from launch import common

# A restart follows only exit codes from 127 on, which a killed or preempted
# program has: its own errors, 1, end the workload at once. So restarts need no
# limit, and xpk wants a number.
_RESTARTS = 10_000

_BODY = """
# shellcheck source=launch/kubernetes.sh
source "$launch/kubernetes.sh"

build
place=(--cluster="$cluster" --zone="$zone")
if [ -n "$cloud_project" ]; then place+=(--project="$cloud_project"); fi
# Of a variable that is only named in the file, xpk takes the value from here.
xpk workload create "${place[@]}" --workload="$name" --tpu-type="$type" \\
  --num-slices="$slices" --docker-image="$image" --env-file=job.env \\
  --max-restarts="$restarts" --termination-grace-period-seconds="$grace" \\
  ${storage:+--storage="$storage"} --command="$command"
follow
"""


def _add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("--cluster", required=True, help="that xpk has made")
  add("--zone", required=True, help="of the cluster")
  add("--project", default="", help="Google Cloud's; default: gcloud's own")
  add("--image", required=True, help="a repository of images, without a tag")
  add("--storage", help="NAME:/PATH of xpk's storage, and where it mounts it")
  common.add_num_slices(parser)


def _render(job: common.Job, options: argparse.Namespace) -> common.Rendered:
  storage = ""
  if job.workdir.startswith("/"):
    flag, value = "storage", options.storage or ""
    storage, _ = common.split_mount(flag, value, job.workdir)
  program = ("exec", "python", "-m", "prefixrl_jax.main", *job.arguments)
  values = {
    "commit": job.commit,
    "extras": job.extras,
    "image": common.image_of(job, options.image),
    "name": job.name,
    "cluster": options.cluster,
    "zone": options.zone,
    "cloud_project": options.project,
    "type": f"{job.slice.chip.cloud}-{job.slice.cores}",
    "slices": str(options.num_slices),
    "storage": storage,
    "restarts": str(_RESTARTS),
    "grace": str(common.GRACE),
    "command": shlex.join(program),
  }
  environment = [f"{name}={value}" for name, value in job.environment().items()]
  about = "Builds the image, creates the workload and prints its logs."
  return common.Rendered(
    {
      "run.sh": common.run_script(about, values, _BODY),
      "job.env": "\n".join((*environment, *job.secrets)) + "\n",
    }
  )


LAUNCHER = common.Launcher(
  name="xpk",
  about=__doc__.splitlines()[0],
  extras=("tpu",),
  add_flags=_add_flags,
  render=_render,
  has_spot=False,  # the cluster's node pools are, or are not
)

if __name__ == "__main__":
  common.main(LAUNCHER)
