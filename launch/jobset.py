"""A slice of TPUs in a Google Kubernetes Engine cluster, as a JobSet.

  python -m launch.jobset --image=us-docker.pkg.dev/me/images/prefixrl \\
      --slice=v6e:2x4 --config=configs/math.py --claim=filestore:/mnt/share \\
      --workdir=/mnt/share/runs/math
"""

import argparse
from typing import Any

from launch import common

_BODY = """
# shellcheck source=launch/kubernetes.sh
source "$launch/kubernetes.sh"

build
if [ -n "$secrets" ]; then # on no command line
  for variable in $secrets; do
    printf '%s=%s\\n' "$variable" "${!variable:?is named by --secrets}"
  done | kubectl create secret generic "$name" --from-env-file=/dev/stdin \\
    --dry-run=client --output=yaml | kubectl apply --filename=-
fi
kubectl apply --filename=jobset.yaml
follow
"""
_SAVED = 143  # the exit code of a program that was told to end


def _add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("--image", required=True, help="a repository of images, without a tag")
  common.add_num_slices(parser)
  add("--service_account", help="Kubernetes', of the pods")
  add("--claim", help="NAME:/PATH, a shared claim of a volume")


def _render(job: common.Job, options: argparse.Namespace) -> common.Rendered:
  values = {
    "commit": job.commit,
    "image": common.image_of(job, options.image),
    "name": job.name,
    "extras": job.extras,
    "secrets": " ".join(job.secrets),
  }
  about = "Builds the image, applies the JobSet and prints its logs."
  return common.Rendered(
    {
      "run.sh": common.run_script(about, values, _BODY),
      "jobset.yaml": common.to_yaml(_jobset(job, options)),
    }
  )


def _jobset(job: common.Job, options: argparse.Namespace) -> dict[str, Any]:
  """Returns the JobSet: a Job a slice, a pod a host.

  A pod that is disrupted, or that was told to end, fails its Job by the pod
  failure policy, and such failures restart the JobSet without being counted.
  """
  hosts = job.slice.hosts
  template = {
    "backoffLimit": 0,
    "completionMode": "Indexed",
    "completions": hosts,
    "parallelism": hosts,
    "podFailurePolicy": {
      "rules": [
        {
          "action": "FailJob",
          "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
        {
          "action": "FailJob",
          "onExitCodes": {"operator": "In", "values": [_SAVED]},
        },
      ]
    },
    "template": {"spec": _pod(job, options)},
  }
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {
      "name": job.name,
      "annotations": {
        # One slice a job: its pods share a node pool, and no other job's do.
        "alpha.jobset.sigs.k8s.io/exclusive-topology": (
          "cloud.google.com/gke-nodepool"
        )
      },
    },
    "spec": {
      "failurePolicy": {
        "maxRestarts": 3,
        "rules": [
          {
            "name": "preempted",
            "action": "RestartJobSetAndIgnoreMaxRestarts",
            "onJobFailureReasons": ["PodFailurePolicy"],
          }
        ],
      },
      "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
      "replicatedJobs": [
        {
          "name": "slice",
          "replicas": options.num_slices,
          "template": {"spec": template},
        }
      ],
    },
  }


def _pod(job: common.Job, options: argparse.Namespace) -> dict[str, Any]:
  chips = {"google.com/tpu": job.slice.chips_a_host}
  variables: list[dict[str, Any]] = [
    {"name": name, "value": value} for name, value in job.environment().items()
  ]
  for name in job.secrets:
    key = {"name": job.name, "key": name}
    variables.append({"name": name, "valueFrom": {"secretKeyRef": key}})
  container: dict[str, Any] = {
    "name": "prefixrl",
    "image": common.image_of(job, options.image),
    "args": list(job.arguments),
    "env": variables,
    "resources": {"requests": chips, "limits": chips},
  }
  selector = {
    "cloud.google.com/gke-tpu-accelerator": job.slice.chip.gke,
    "cloud.google.com/gke-tpu-topology": job.slice.topology,
  }
  if job.spot:
    selector["cloud.google.com/gke-spot"] = "true"
  pod: dict[str, Any] = {
    "restartPolicy": "Never",
    "terminationGracePeriodSeconds": common.GRACE,
    "hostNetwork": True,
    "dnsPolicy": "ClusterFirstWithHostNet",
    "nodeSelector": selector,
    "containers": [container],
  }
  if options.service_account:
    pod["serviceAccountName"] = options.service_account
  if job.workdir.startswith("/"):
    claim, path = common.split_mount("claim", options.claim or "", job.workdir)
    container["volumeMounts"] = [{"name": "shared", "mountPath": path}]
    source = {"claimName": claim}
    pod["volumes"] = [{"name": "shared", "persistentVolumeClaim": source}]
  return pod


LAUNCHER = common.Launcher(
  name="jobset",
  about=__doc__.splitlines()[0],
  extras=("tpu",),
  add_flags=_add_flags,
  render=_render,
)

if __name__ == "__main__":
  common.main(LAUNCHER)
