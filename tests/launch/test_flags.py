"""What launchers refuse before any machine is asked for."""

import os
import subprocess
import sys

import launched
import pytest

from launch import checks, common, slices
from prefixrl_jax.distributed import xla_flags
from prefixrl_jax.storage import locking
from prefixrl_jax.types import UserError

_WORKDIR = "/mnt/share/runs/Math_8b"


def _slurm(*argv, slice_="h100:8", workdir=_WORKDIR):
  return launched.prepared(
    "slurm",
    [
      "--config=configs/math.py",
      f"--slice={slice_}",
      f"--workdir={workdir}",
      *argv,
    ],
  )


@pytest.mark.parametrize(
  ("text", "chips", "hosts"),
  [
    ("v5e:1x1", 1, 1),
    ("v5e:2x4", 8, 1),
    ("v5e:4x4", 16, 4),
    ("v5e:16x16", 256, 64),
    ("v5p:2x2x1", 4, 1),
    ("v5p:4x4x4", 64, 16),
    ("v6e:2x4", 8, 1),
    ("v6e:8x8", 64, 16),
    ("h100:1", 1, 1),
    ("h200:8", 8, 1),
    ("a100:32", 32, 4),
  ],
)
def test_hosts_of_slices(text, chips, hosts):
  found = slices.parse(text)
  assert (found.chips, found.hosts) == (chips, hosts)
  assert found.chips_a_host * hosts == chips


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("v7:2x2", "no chip 'v7'; known: v5e, v5p"),
    ("v5e", "v5e has no slice ''; it has 1x1, 2x2"),
    ("v5e:3x3", "v5e has no slice '3x3'; it has 1x1"),
    ("v5p:2x2", "v5p has no slice '2x2'; it has 2x2x1"),
    ("h100:12", "1 to 8 or a multiple of 8"),
    ("h100:0", "1 to 8 or a multiple of 8"),
    ("h100:²", "1 to 8 or a multiple of 8"),
    ("h100:2x2", "1 to 8 or a multiple of 8"),
  ],
)
def test_slices_that_are_not_there(text, said):
  with pytest.raises(UserError, match=said):
    slices.parse(text)


_TPU = ["--zone=z", "--nfs=10.0.0.2:/share:/mnt/share"]
_IMAGE = ["--image=i", "--claim=files:/mnt/share"]


def _jobset(*argv):
  """Later flags stand in place of earlier ones."""
  return launched.prepared(
    "jobset",
    [
      "--config=configs/math.py",
      "--slice=v6e:2x4",
      f"--workdir={_WORKDIR}",
      *_IMAGE,
      *argv,
    ],
  )


@pytest.mark.parametrize(
  ("name", "slice_", "argv"),
  [
    ("tpu_vm", "v5e:4x4", _TPU),
    ("tpu_vm", "v5p:2x2x2", _TPU),
    ("jobset", "v6e:4x4", _IMAGE),
    (
      "jobset",
      "v6e:2x4",
      [*_IMAGE, "--num_slices=2", "--", "--config.mesh.data=2"],
    ),
    ("sky", "h100:16", ["--mount=files:/mnt/share"]),
    ("slurm", "a100:16", []),
    *(
      (
        "xpk",
        slice_,
        ["--cluster=c", "--zone=z", "--image=i", "--storage=s:/mnt/share"],
      )
      for slice_ in ("v5e:2x4", "v6e:2x4")  # two hosts there
    ),
  ],
)
def test_several_hosts_have_a_process_each(name, slice_, argv):
  argv = [
    "--config=configs/math.py",
    f"--slice={slice_}",
    f"--workdir={_WORKDIR}",
    *argv,
  ]
  _, files = launched.prepared(name, argv)
  assert files["run.sh"]


def test_ssh_is_for_one_machine():
  argv = ["--config=configs/math.py", "--host=a", f"--workdir={_WORKDIR}"]
  with pytest.raises(UserError, match=r"2 hosts, .*--coordinator"):
    launched.prepared("ssh", [*argv, "--slice=h100:16"])


@pytest.mark.parametrize(
  ("workdir", "said"),
  [
    ("runs/math", "absolute path on shared storage"),
    ("s3://bucket/math", "absolute path on shared storage"),
    ("/", "absolute path on shared storage"),
  ],
)
def test_workdirs_that_would_be_lost(workdir, said):
  with pytest.raises(UserError, match=said):
    _slurm(workdir=workdir)


def test_a_bucket_brings_its_extra():
  argv = [
    "--config=configs/math.py",
    "--slice=v6e:2x4",
    "--workdir=gs://bucket/runs/math",
    "--image=i",
  ]
  job, files = launched.prepared("jobset", argv)
  assert job.extras == "tpu,gcs"
  assert job.cache == "gs://bucket/runs/xla_cache"
  assert "volumes" not in files["jobset.yaml"]


@pytest.mark.parametrize(
  ("flag", "said"),
  [
    ("files:/mnt/other", "is not below /mnt/other"),
    ("files", "must be SOURCE:/PATH"),
    ("files:/mnt/@", "must be SOURCE:/PATH"),
    ("files:/mnt/$(x)", r"--claim='files:/mnt/\$\(x\)': it may have"),
    ("f;x:/mnt/share", "--claim='f;x:/mnt/share': it may have"),
  ],
)
def test_what_is_mounted_elsewhere(flag, said):
  with pytest.raises(UserError, match=said):
    _jobset(f"--claim={flag}")


def test_the_lock_is_the_programs():
  assert common.LOCK == locking.LOCK


def test_a_chip_that_the_launcher_has_not():
  with pytest.raises(UserError, match=r"launch\.slurm has no v5e"):
    _slurm(slice_="v5e:2x4")


def test_the_workdir_names_the_job():
  job, _ = _slurm()
  assert job.name == "math-8b"
  job, _ = _slurm("--name=other")
  assert job.name == "other"


@pytest.mark.parametrize(
  "name", ["8b", "a b", "-a", "a-", "A", "a" * 41, "a;x"]
)
def test_names_that_providers_refuse(name):
  with pytest.raises(UserError, match="--name="):
    _slurm(f"--name={name}")


@pytest.mark.parametrize(
  "argument",
  [
    "--config.model.token=abc",
    "--config.wandb.api_key=abc",
    "--config.x=hf_abcdefghijklmnopqrstuvwx",
    "--config.x=ghp_abcdefghijklmnopqrst",
    "--config.x=0123456789abcdef0123456789abcdef01234567",
    "--config.x=AKIAABCDEFGHIJKLMNOP",
  ],
)
def test_keys_and_tokens_are_refused_without_being_said(argument):
  with pytest.raises(UserError, match="looks like a key or token") as e:
    _slurm("--", argument)
  assert argument.partition("=")[2] not in str(e.value)


@pytest.mark.parametrize(
  "argument",
  ["--stage=train,evaluate", "--config.train.flops=1e18", "--redo=train/rl"],
)
def test_other_arguments_are_passed_on_in_their_order(argument):
  _, files = _slurm("--", argument, "--fresh")
  quoted = f"--workdir={_WORKDIR} \\\n  {argument} \\\n  --fresh\n"
  assert files["job.sh"].endswith(quoted)


def test_arguments_reach_the_program_as_they_are(tmp_path):
  odd = "--config.problems.file=/a b/$(touch x)'\"\\;.jsonl"
  _, files = _slurm("--", odd)
  python = tmp_path / ".venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
  python.chmod(0o755)
  done = subprocess.run(
    ("bash", "-c", files["job.sh"]),
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert done.stdout.splitlines() == [
    "-m",
    "prefixrl_jax.main",
    "--config=configs/math.py",
    f"--workdir={_WORKDIR}",
    odd,
  ]
  assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
  ("name", "slice_", "flag"),
  [
    ("ssh", "v5e:1x1", "--host=-oProxyCommand=touch"),
    ("slurm", "h100:8", "--partition=gpu\n#SBATCH --wrap=x"),
    ("slurm", "h100:8", "--cache=/mnt/a b"),
    ("tpu_vm", "v5e:4x4", "--zone=us east"),
    ("jobset", "v6e:2x4", "--service_account=a;b"),
  ],
)
def test_values_that_no_provider_has(name, slice_, flag):
  argv = ["--config=configs/math.py", f"--slice={slice_}"]
  of_slice = {"tpu_vm": _TPU, "jobset": _IMAGE}.get(name, [])
  with pytest.raises(UserError, match=r"^--\w+='[^']*': it may have letters"):
    launched.prepared(name, [*argv, f"--workdir={_WORKDIR}", *of_slice, flag])


def test_a_workdir_with_a_space_is_refused():
  with pytest.raises(UserError, match="--workdir='/mnt/a b/c': it may have"):
    _slurm(workdir="/mnt/a b/c")


@pytest.mark.parametrize("option", ["-n4", "mem=0", "--mem=0\n#SBATCH -n4"])
def test_options_of_sbatch_are_options_on_a_line(option):
  with pytest.raises(UserError, match=r"--sbatch=.*: it must be an option"):
    _slurm(f"--sbatch={option}")


@pytest.mark.parametrize(
  "image", ["me/prefixrl:latest", "prefixrl:1", "me/prefixrl@sha256:00"]
)
def test_an_image_has_the_tag_of_its_commit_and_extras(image):
  with pytest.raises(UserError, match=f"--image={image}: leave out the tag"):
    _jobset(f"--image={image}")
  _, files = _jobset("--image=a.dev:5000/b/c")
  tag = launched.COMMIT[:12]
  assert f"image: a.dev:5000/b/c:{tag}-tpu\n" in files["jobset.yaml"]


def test_there_is_one_slice_at_least(capsys):
  with pytest.raises(SystemExit):
    _jobset("--num_slices=0")
  assert "--num_slices: invalid choice: 0" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--stge=train"], "the program: Unknown command line flag 'stge'"),
    (["--stage=trian"], "there is no stage 'trian'; known: pretrain"),
    (["--config.train.flop=1"], "the config has no 'flop' there; there are"),
    (["--config.train.flops=-1"], "config.train.flops"),
    (["--config.train.flops=much"], "flops"),
    (["train"], "'train' is not a flag"),
  ],
)
def test_what_the_program_would_refuse_is_refused_here(arguments, said):
  with pytest.raises(UserError, match=said):
    _slurm("--", *arguments)


@pytest.mark.parametrize(
  ("mesh", "said"),
  [
    (
      ["--config.mesh.data=-1", "--config.mesh.fsdp=3"],
      "'tensor': 1, 'expert': 1} needs 15 devices;",
    ),
    (
      ["--config.mesh.data=4", "--config.mesh.fsdp=2"],
      "'expert': 1} needs 8 devices; there are 16.",
    ),
    (
      ["--config.mesh.data=1", "--config.mesh.fsdp=16"],
      "config.mesh.data = 1 must be a multiple of the 2 slices",
    ),
  ],
)
def test_a_mesh_that_the_slice_does_not_have_is_refused(mesh, said):
  with pytest.raises(UserError, match=f"^--slice=v6e:2x4: .*{said}"):
    _jobset("--num_slices=2", "--", *mesh)
  fits = ["--config.mesh.data=2", "--config.mesh.fsdp=8"]
  assert _jobset("--num_slices=2", "--", *fits)


@pytest.mark.parametrize(
  ("config", "arguments", "extras"),
  [
    ("math", [], "cuda12"),
    ("gym", [], "cuda12,gym"),
    ("math", ["--traces=gs://b/traces.jsonl"], "cuda12,gcs"),
    ("gym", ["--config.wandb.project", "mine"], "cuda12,gym,wandb"),
  ],
)
def test_what_a_config_needs_is_installed(
  monkeypatch, tmp_path, config, arguments, extras
):
  (tmp_path / "wandb.py").touch()  # for the program, which asks for it
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  argv = [f"--config=configs/{config}.py", "--slice=h100:8"]
  argv += [f"--workdir={_WORKDIR}", "--", *arguments]
  job, files = launched.prepared("slurm", argv)
  assert job.extras == extras
  assert f"extras={extras}\n" in files["run.sh"]


def test_secrets_are_names():
  with pytest.raises(UserError, match="only names are given") as e:
    _slurm("--secrets=HF_TOKEN=hf_abcdefgh")
  assert "abcdefgh" not in str(e.value)


def test_a_secret_that_is_not_set_is_refused_before_anything_runs(
  monkeypatch, capsys
):
  monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
  monkeypatch.setattr(checks, "pinned_commit", lambda config: launched.COMMIT)
  monkeypatch.setattr(os, "execvp", lambda *_: pytest.fail("it ran"))
  argv = [
    "--config=configs/math.py",
    "--slice=h100:8",
    f"--workdir={_WORKDIR}",
    "--secrets=NO_SUCH_TOKEN",
  ]
  with pytest.raises(SystemExit) as e:
    common.main(launched.launcher_of("slurm"), argv)
  assert str(e.value.code).startswith("error: --secrets=NO_SUCH_TOKEN")


def _git(folder, *argv):
  subprocess.run(("git", "-C", folder, *argv), check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
  """A repository with one config."""
  monkeypatch.setattr(checks, "ROOT", tmp_path)
  for name in ("AUTHOR", "COMMITTER"):
    monkeypatch.setenv(f"GIT_{name}_NAME", "me")
    monkeypatch.setenv(f"GIT_{name}_EMAIL", "me@there")
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "own.py").write_text("")
  _git(tmp_path, "init")
  _git(tmp_path, "add", ".")
  _git(tmp_path, "commit", "-m", "one")
  return tmp_path


def test_the_commit_that_is_checked_out_is_what_runs(checkout):
  head = subprocess.check_output(
    ("git", "-C", checkout, "rev-parse", "HEAD"), text=True
  ).strip()
  assert checks.pinned_commit("configs/own.py") == head


def test_what_is_not_committed_is_refused(checkout):
  (checkout / "configs" / "new.py").write_text("")
  with pytest.raises(UserError, match=r"new\.py: the project's commit has no"):
    checks.pinned_commit("configs/new.py")
  _git(checkout, "add", ".")
  with pytest.raises(UserError, match=r"configs/new\.py differs"):
    checks.pinned_commit("configs/own.py")


def test_a_wrong_flag_is_one_line():
  done = subprocess.run(
    (
      *(sys.executable, "-m", "launch.slurm"),
      *("--slice=v9:1", "--config=x", "--workdir=/a/b"),
    ),
    cwd=launched.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: --slice=v9:1: there is no chip 'v9'")


def test_flags_of_one_variable_are_joined():
  settings = [
    xla_flags.Setting("XLA_FLAGS", "--a=1", ""),
    xla_flags.Setting("OTHER", "2", ""),
    xla_flags.Setting("XLA_FLAGS", "--b=3", ""),
  ]
  assert xla_flags.environment(settings) == {
    "XLA_FLAGS": "--a=1 --b=3",
    "OTHER": "2",
  }


def test_the_installed_xla_knows_its_flags():
  """An unknown one would end the process."""
  said = {
    s.value
    for settings in xla_flags.SETTINGS.values()
    for s in settings
    if s.variable == "XLA_FLAGS"
  }
  assert said
  code = "import jax; jax.devices()"
  env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(said)}
  run = lambda env: subprocess.run(
    (sys.executable, "-c", code), env=env, capture_output=True
  )
  assert run(env).returncode == 0
  assert run({**env, "XLA_FLAGS": "--xla_gpu_no_such_flag=1"}).returncode != 0


def test_the_installed_libtpu_knows_its_flags():
  pytest.importorskip("libtpu")
  code = """if True:
    from jax.experimental import topologies
    topologies.get_topology_desc("v5e:2x2", platform="tpu")
  """
  quiet = dict(
    JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1"
  )

  def accepts(flags):
    env = {**os.environ, **quiet, "LIBTPU_INIT_ARGS": flags}
    run = subprocess.run((sys.executable, "-c", code), env=env)
    return run.returncode == 0

  for chip in ("v5e", "v5p", "v6e"):
    said = xla_flags.environment(xla_flags.SETTINGS[chip])
    assert accepts(said["LIBTPU_INIT_ARGS"])
  assert not accepts("--xla_tpu_no_such_flag=1")
