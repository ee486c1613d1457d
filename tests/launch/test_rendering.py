"""What launchers would run: as documented, valid, and without secrets."""

import json
import pathlib
import re
import subprocess
import sys

import jsonschema
import kubernetes_validate
import launched
import pytest
import yaml

from launch import common, slices
from prefixrl_jax.distributed import xla_flags

_HERE = pathlib.Path(__file__).parent
_WORKDIR = "/mnt/share/runs/math"
_OWN = {
  "jobset": ["--image=me/prefixrl", "--claim=files:/mnt/share"],
  "sky": ["--mount=files:/mnt/share"],
  "slurm": [],
  "ssh": ["--host=me@there"],
  "tpu_vm": ["--zone=z", "--nfs=10.0.0.2:/share:/mnt/share"],
  "xpk": ["--cluster=c", "--zone=z", "--image=i", "--storage=s:/mnt/share"],
}


def _argv(name, slice_, *more):
  return [
    "--config=configs/demo.py:arms=prefixrl",
    f"--workdir={_WORKDIR}",
    f"--slice={slice_}",
    *_OWN[name],
    *more,
  ]


@pytest.mark.parametrize("name", launched.NAMES)
def test_pages_show_what_dry_runs_print(name):
  argv, output = launched.shown(name)
  assert output.startswith("==> run.sh\n#!/usr/bin/env bash\n")
  assert launched.dry_run(name, argv) == output


def test_every_launcher_has_a_page_and_is_in_the_index():
  modules = {p.stem for p in (launched.ROOT / "launch").glob("*.py")}
  assert modules - {"__init__", "checks", "common", "slices"} == set(
    launched.NAMES
  )
  index = launched.page_of("index").read_text()
  for name in launched.NAMES:
    assert f"[`launch.{name}`]({name}.md)" in index


def _shellcheck(*files):
  beside = pathlib.Path(sys.executable).parent / "shellcheck"
  return subprocess.run(
    (beside, "-x", f"--source-path={launched.ROOT}", *files),
    capture_output=True,
    text=True,
  )


@pytest.mark.parametrize("name", launched.NAMES)
def test_shellcheck_finds_nothing_in_rendered_scripts(name, tmp_path):
  slice_ = "v6e:2x2" if name in ("jobset", "tpu_vm", "xpk") else "h100:8"
  _, files = launched.prepared(name, _argv(name, slice_, "--secrets=HF_TOKEN"))
  scripts = [file for file, text in files.items() if text.startswith("#!")]
  for file in scripts:
    (tmp_path / file).write_text(files[file])
  done = _shellcheck(*(tmp_path / file for file in scripts))
  assert done.stdout + done.stderr == ""


def test_shellcheck_finds_nothing_in_shared_scripts():
  done = _shellcheck(*sorted((launched.ROOT / "launch").glob("*.sh")))
  assert done.stdout + done.stderr == ""


def test_shellcheck_is_asked(tmp_path):
  (tmp_path / "bad.sh").write_text("#!/bin/bash\nrm $1\n")
  assert "SC2086" in _shellcheck(tmp_path / "bad.sh").stdout


def _jobset(*argv):
  _, files = launched.prepared("jobset", _argv("jobset", *argv))
  return yaml.safe_load(files["jobset.yaml"])


def _validate(jobset):
  jsonschema.validate(
    jobset, json.loads((_HERE / "jobset_schema.json").read_text())
  )
  for replicated in jobset["spec"]["replicatedJobs"]:
    job = {
      "apiVersion": "batch/v1",
      "kind": "Job",
      "metadata": {"name": "job"},
      "spec": replicated["template"]["spec"],
    }
    kubernetes_validate.validate(job, "1.33", strict=True)


@pytest.mark.parametrize(
  "argv",
  [
    ("v6e:2x4",),
    ("v5e:1x1", "--spot", "--secrets=HF_TOKEN", "--service_account=me"),
    ("v5p:4x4x4", "--num_slices=2"),
  ],
)
def test_jobsets_are_valid(argv):
  _validate(_jobset(*argv))


def test_wrong_jobsets_are_not_valid():
  jobset = _jobset("v6e:2x4")
  rule = jobset["spec"]["failurePolicy"]["rules"][0]
  rule["action"] = "Restart"
  with pytest.raises(jsonschema.ValidationError, match="Restart"):
    _validate(jobset)
  jobset = _jobset("v6e:2x4")
  job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
  job["template"]["spec"]["hostNetworks"] = True
  with pytest.raises(kubernetes_validate.ValidationError, match="hostNetworks"):
    _validate(jobset)


def test_a_jobset_has_a_pod_a_host_and_a_job_a_slice():
  jobset = _jobset("v5e:16x16", "--num_slices=2", "--spot")
  annotation = "alpha.jobset.sigs.k8s.io/exclusive-topology"
  assert jobset["metadata"]["annotations"] == {
    annotation: "cloud.google.com/gke-nodepool"
  }
  (replicated,) = jobset["spec"]["replicatedJobs"]
  assert replicated["replicas"] == 2
  job = replicated["template"]["spec"]
  assert (job["completions"], job["parallelism"]) == (64, 64)
  assert job["backoffLimit"] == 0
  pod = job["template"]["spec"]
  assert pod["restartPolicy"] == "Never"
  assert pod["hostNetwork"] is True
  assert pod["dnsPolicy"] == "ClusterFirstWithHostNet"
  assert pod["terminationGracePeriodSeconds"] == common.GRACE >= 30
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
    "cloud.google.com/gke-tpu-topology": "16x16",
    "cloud.google.com/gke-spot": "true",
  }
  (container,) = pod["containers"]
  assert container["resources"]["limits"] == {"google.com/tpu": 4}


def test_a_jobset_does_not_count_preemptions():
  spec = _jobset("v6e:2x4")["spec"]
  assert spec["failurePolicy"]["rules"] == [
    {
      "name": "preempted",
      "action": "RestartJobSetAndIgnoreMaxRestarts",
      "onJobFailureReasons": ["PodFailurePolicy"],
    }
  ]
  job = spec["replicatedJobs"][0]["template"]["spec"]
  disrupted, told = job["podFailurePolicy"]["rules"]
  assert disrupted["action"] == told["action"] == "FailJob"
  assert disrupted["onPodConditions"] == [
    {"type": "DisruptionTarget", "status": "True"}
  ]
  assert told["onExitCodes"] == {"operator": "In", "values": [143]}


@pytest.mark.parametrize(
  ("slice_", "accelerators", "more"),
  [
    ("h100:8", "H100:8", ["--spot"]),
    ("a100:1", "A100-80GB:1", ["--image=me/prefixrl:1", "--infra=gcp"]),
    ("v5e:2x4", "tpu-v5litepod-8", []),
    ("v5p:2x2x1", "tpu-v5p-8", ["--spot"]),
  ],
)
def test_skypilot_tasks_are_valid(slice_, accelerators, more):
  _, files = launched.prepared("sky", _argv("sky", slice_, *more))
  task = yaml.safe_load(files["task.yaml"])
  schemas = json.loads((_HERE / "skypilot_schemas.json").read_text())
  jsonschema.validate(task, schemas["task"])
  jsonschema.validate(task["resources"], schemas["resources"])
  assert task["resources"]["accelerators"] == accelerators
  assert task["resources"]["use_spot"] == ("--spot" in more)
  assert task["resources"]["job_recovery"] == {
    "max_restarts_on_errors": 0,
    "recover_on_exit_codes": [143],
  }
  assert task["volumes"] == {"/mnt/share": "files"}
  task["resources"]["job_recovery"]["recover_on_exit_codes"] = ["143"]
  with pytest.raises(jsonschema.ValidationError):
    jsonschema.validate(task["resources"], schemas["resources"])


def test_skypilot_mounts_a_bucket():
  argv = _argv("sky", "v6e:2x4", "--mount=gs://me-runs:/mnt/share")
  _, files = launched.prepared("sky", argv)
  (mounted,) = yaml.safe_load(files["task.yaml"])["file_mounts"].items()
  bucket = {"source": "gs://me-runs", "mode": "MOUNT_CACHED"}
  assert mounted == ("/mnt/share", bucket)
  schemas = json.loads((_HERE / "skypilot_schemas.json").read_text())
  jsonschema.validate(bucket, schemas["storage"])


@pytest.mark.parametrize(
  ("slice_", "kind"),
  [("v5e:2x4", "v5litepod-8"), ("v5p:2x2x1", "v5p-8"), ("v6e:1x1", "v6e-1")],
)
def test_cloud_tpus_are_named_by_cores(slice_, kind):
  _, files = launched.prepared("tpu_vm", _argv("tpu_vm", slice_))
  assert f"\ntype={kind}\n" in files["run.sh"]
  assert "alpha" not in files["run.sh"].replace("v2-alpha-", "")


def _environment(name, files):
  """Variables that a launcher's files set for the program."""
  if name == "jobset":
    (job,) = yaml.safe_load(files["jobset.yaml"])["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    return {v["name"]: v.get("value") for v in container["env"]}
  if name == "xpk":
    lines = files["job.env"].splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)
  exports = re.findall(r"^export (\w+)=(.*)$", files["job.sh"], re.MULTILINE)
  return dict(exports)


@pytest.mark.parametrize("name", launched.NAMES)
def test_cache_and_flags_of_the_chip_are_set(name):
  chip = "h100" if name in ("slurm", "ssh", "sky") else "v6e"
  size = "8" if chip == "h100" else "2x2"
  _, files = launched.prepared(name, _argv(name, f"{chip}:{size}"))
  assert _environment(name, files) == {
    "JAX_COMPILATION_CACHE_DIR": "/mnt/share/runs/xla_cache",
    **xla_flags.environment(xla_flags.SETTINGS[chip]),
  }


@pytest.mark.parametrize("name", launched.NAMES)
def test_secrets_are_in_no_file(name, monkeypatch):
  monkeypatch.setenv("HF_TOKEN", "hf_ThisIsTheSecretItself")
  slice_ = "h100:8" if name in ("slurm", "ssh", "sky") else "v6e:2x2"
  argv = _argv(name, slice_, "--secrets=HF_TOKEN", "--dry-run")
  output = launched.dry_run(name, argv)
  assert "ThisIsTheSecret" not in output
  if name != "slurm":  # whose jobs have the environment of sbatch
    assert "HF_TOKEN" in output


@pytest.mark.parametrize("kind", ["tpu", "cuda"])
def test_images_have_the_pinned_project_and_hear_sigterm(kind):
  file = launched.ROOT / "launch" / "docker" / f"{kind}.Dockerfile"
  text = file.read_text()
  extra = dict(tpu="tpu", cuda="cuda12")[kind]
  assert f"ARG EXTRAS={extra}\n" in text
  assert 'pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"' in text
  assert 'ENTRYPOINT ["python", "-m", "prefixrl_jax.main"]' in text
  users = launched.ROOT.glob("launch/*.*")
  assert any(file.name in user.read_text() for user in users)


def test_chips_have_settings_and_each_its_reason():
  assert set(xla_flags.SETTINGS) == set(slices.CHIPS)
  for settings in xla_flags.SETTINGS.values():
    assert all(len(setting.reason) > 20 for setting in settings)
