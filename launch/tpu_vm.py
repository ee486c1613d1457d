"""A Cloud TPU's queued resource, asked for again whenever it is preempted.

  python -m launch.tpu_vm --zone=us-west4-a --spot --slice=v5e:2x4 \\
      --config=configs/math.py --nfs=10.0.0.2:/share:/mnt/share \\
      --workdir=/mnt/share/runs/math
"""

import argparse
import shlex

from launch import common

_BODY = """
place=(--zone="$zone")
if [ -n "$cloud_project" ]; then place+=(--project="$cloud_project"); fi
resource() { gcloud compute tpus queued-resources "$@" "${place[@]}"; }
vm() { gcloud compute tpus tpu-vm "$@" "${place[@]}" --quiet --worker=all; }
on() { vm ssh "$name" --command="$1"; }
copy() { vm scp "$@" "$name:$folder/"; }
# shellcheck source=launch/remote.sh
source "$launch/remote.sh"

ask() {
  resource create "$name" --node-id="$name" --accelerator-type="$type" \\
    --runtime-version="$runtime" ${spot:+--spot} \\
    ${account:+--service-account="$account"}
}
mount_shared() {
  on "mountpoint -q $mount_at || { sudo apt-get install -qy nfs-common &&
    sudo mkdir -p $mount_at && sudo mount -t nfs $nfs $mount_at; }"
}
state() {
  local said
  if said=$(resource describe "$name" --format="value(state.state)" 2>&1); then
    tail -n 1 <<< "$said"
  elif [[ $said == *NOT_FOUND* ]]; then
    echo ABSENT
  else
    echo "UNKNOWN, $said"
  fi
}
give_back() { resource delete "$name" --force --quiet; }
trap 'echo "$name may still be there, and cost: gcloud compute tpus \\
queued-resources delete $name ${place[*]} --force" >&2' EXIT

# A machine that was taken away without notice has left its lock in the workdir.
# Only this run's own is removed: it had begun, and its machine is deleted.
unlock() {
  if [ -n "$lost" ]; then on "rm -f $lock" || return; fi
  lost=
}

lost= # a machine that the job had begun on
sent= # to the machine that is there
while true; do
  now=$(state)
  echo "$name: $now" >&2
  case $now in
    ABSENT)
      lost=$sent
      sent=
      ask
      ;;
    ACTIVE)
      if [ -n "$sent" ] || { mount_shared && unlock && send; }; then
        sent=yes
        code=0
        attend || code=$?
        case $code in
          0)
            give_back
            trap - EXIT
            exit
            ;;
          143 | 255) ;; # preempted, most likely: the state will say so
          *) exit "$code" ;;
        esac
      fi
      ;;
    SUSPENDED) give_back ;; # preempted: no failure of the job's
    FAILED)
      if [ -z "$sent" ]; then
        resource describe "$name" >&2
        exit 1
      fi
      give_back
      ;;
  esac
  sleep 30 &
  wait "$!" || true
done
"""


def _add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("--zone", required=True, help="of the TPU")
  add("--project", default="", help="Google Cloud's; default: gcloud's own")
  add("--service_account", default="", help="of the machine")
  add("--nfs", required=True, help="HOST:/SHARE:/PATH, what is mounted where")


def _render(job: common.Job, options: argparse.Namespace) -> common.Rendered:
  chip = job.slice.chip
  share, mount_at = common.split_mount("nfs", options.nfs, job.workdir)
  values = {
    "name": job.name,
    "zone": options.zone,
    "cloud_project": options.project,
    "account": options.service_account,
    "type": f"{chip.cloud}-{job.slice.cores}",
    "runtime": chip.runtime,
    "lock": shlex.quote(f"{job.workdir}/{common.LOCK}"),
    "nfs": share,
    "mount_at": mount_at,
    "spot": "yes" if job.spot else "",
  }
  about = (
    "Asks for a TPU, runs the job on it, asks again if it is preempted, and"
    " gives it back when the job is done."
  )
  values |= common.remote_values(job)
  return common.Rendered(
    {
      "run.sh": common.run_script(about, values, _BODY),
      "job.sh": common.job_script(job),
    }
  )


LAUNCHER = common.Launcher(
  name="tpu_vm",
  about=__doc__.splitlines()[0],
  extras=("tpu",),
  add_flags=_add_flags,
  render=_render,
)

if __name__ == "__main__":
  common.main(LAUNCHER)
