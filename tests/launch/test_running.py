"""Launchers' scripts, run: with stand-ins for ssh, gcloud, Slurm and kubectl.

A repository of the launchers' own scripts, with a small program in the place of
prefixrl_jax.main, is sent to "machines" that are folders.
"""

import contextlib
import fcntl
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import launched
import pytest

_WORKDIR = "/mnt/share/runs/math"
_PROGRAM = """
import os, pathlib, signal, sys, time

shared = pathlib.Path(os.environ["SHARED"])  # outlives the machine
turn = len(list(shared.glob("turn*")))

def save(*_):
  (shared / "saved").touch()
  print("saved", flush=True)
  sys.exit(143)

signal.signal(signal.SIGTERM, save)
print("turn", turn, sys.argv[1], flush=True)
(shared / f"turn{turn}").write_text(os.environ.get("HF_TOKEN", ""))
does = os.environ["DOES"].split(",")[turn]
if does == "wait":
  for _ in range(600):  # one long sleep may begin just after the signal came
    time.sleep(0.1)
sys.exit(int(does))
"""
# Each says in `calls` what it was asked for.
_CALLED = 'echo "$(basename "$0") $*" >> "$SHARED/calls"\n'
_STAND_INS = {
  "ssh": 'cd "$MACHINE" && HOME=$MACHINE exec bash -c "${*: -1}"\n',
  "scp": """
    to=${*: -1}
    for file in "${@:3:$#-3}"; do cp "$file" "$MACHINE/${to#*:}"; done
  """,
  "sudo": "exit 0\n",
  "mountpoint": "exit 0\n",
}


def _hurried(script):
  return re.sub(r"\bsleep \d+(?![.\d])", "sleep 0.1", script)


@pytest.fixture
def stage(tmp_path, monkeypatch):
  stage = _Stage(tmp_path, monkeypatch)
  yield stage
  for process in stage.processes:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)  # who else has its output, too
    process.communicate()


class _Stage:
  """A repository, a machine, shared storage, and commands on the PATH."""

  def __init__(self, folder, monkeypatch):
    self.repository = folder / "repository"
    self.machine = folder / "machine"
    self.shared = folder / "shared"
    self.processes = []
    self._bin = folder / "bin"
    for made in (self.repository, self.machine, self.shared, self._bin):
      made.mkdir()
    for name in ("AUTHOR", "COMMITTER"):
      monkeypatch.setenv(f"GIT_{name}_NAME", "me")
      monkeypatch.setenv(f"GIT_{name}_EMAIL", "me@there")
    monkeypatch.setenv("PATH", f"{self._bin}:{os.environ['PATH']}")
    monkeypatch.setenv("SHARED", str(self.shared))
    monkeypatch.setenv("MACHINE", str(self.machine))
    (self._bin / "python").symlink_to(sys.executable)
    for name, body in _STAND_INS.items():
      self.command(name, body)
    self._commit()

  def _commit(self):
    launch = self.repository / "launch"
    launch.mkdir()
    for script in (launched.ROOT / "launch").glob("*.sh"):
      (launch / script.name).write_text(_hurried(script.read_text()))
    install = 'echo "$1" > "$(dirname "$0")/../installed"\n'
    (launch / "install.sh").write_text(install)
    package = self.repository / "prefixrl_jax"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "main.py").write_text(_PROGRAM)
    for argv in (["init"], ["add", "."], ["commit", "-m", "one"]):
      command = ("git", "-C", self.repository, *argv)
      subprocess.run(command, check=True, capture_output=True)

  def command(self, name, body):
    file = self._bin / name
    file.write_text(f"#!/usr/bin/env bash\n{_CALLED}{body}\n")
    file.chmod(0o755)

  def start(self, name, *argv, workdir=_WORKDIR):
    """Begins a launcher's run.sh."""
    _, files = launched.prepared(
      name, ["--config=configs/math.py", f"--workdir={workdir}", *argv]
    )
    folder = self.repository / "runs" / "launch" / "math"
    folder.mkdir(parents=True)
    for file, text in files.items():
      text = _hurried(text.replace(launched.COMMIT, "HEAD"))
      (folder / file).write_text(text)
    # Tests in the background ignore SIGINT, and would hand that down; what
    # Python handles is not. (A preexec_fn would fork JAX's threads.)
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
      process = subprocess.Popen(
        ("bash", folder / "run.sh"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
      )
    finally:
      signal.signal(signal.SIGINT, ours)
    self.processes.append(process)
    return process

  def run(self, *argv, **kwargs):
    """Returns the exit code of a launcher's run.sh, and what it printed."""
    process = self.start(*argv, **kwargs)
    output, _ = process.communicate(timeout=30)
    return process.returncode, output

  def wait_for(self, name):
    """Until the shared storage has a file."""
    deadline = time.monotonic() + 20
    while not (self.shared / name).exists():
      assert time.monotonic() < deadline, f"there is no {name}"
      time.sleep(0.02)

  @property
  def calls(self):
    return (self.shared / "calls").read_text()


_SSH = ("ssh", "--host=me@there", "--slice=h100:8")


def test_ssh_sends_the_commit_runs_the_job_and_prints_its_log(
  stage, monkeypatch
):
  monkeypatch.setenv("DOES", "0")
  monkeypatch.setenv("HF_TOKEN", "it's $hush")
  code, output = stage.run(*_SSH, "--secrets=HF_TOKEN")
  assert code == 0, output
  assert "turn 0 --config=configs/math.py\n" in output
  job = stage.machine / "prefixrl_jax" / "math"
  assert (job / "project" / "installed").read_text() == "cuda12\n"
  assert (stage.shared / "turn0").read_text() == "it's $hush"
  assert "hush" not in stage.calls
  assert (job / "secrets.sh").stat().st_mode & 0o077 == 0


def test_ssh_ends_with_the_programs_own_error(stage, monkeypatch):
  monkeypatch.setenv("DOES", "1,0")
  code, output = stage.run(*_SSH)
  assert code == 1, output
  assert "turn 0 " in output
  assert not (stage.shared / "turn1").exists()


def test_ssh_goes_on_after_preemption(stage, monkeypatch):
  monkeypatch.setenv("DOES", "143,0")
  code, output = stage.run(*_SSH)
  assert code == 0, output
  assert "turn 1 " in output


def test_ssh_begins_again_what_a_restarted_machine_has_forgotten(
  stage, monkeypatch
):
  monkeypatch.setenv("DOES", "wait,0")
  process = stage.start(*_SSH)
  stage.wait_for("turn0")
  runner = _pid_that_runs(stage.machine)
  os.killpg(runner, signal.SIGKILL)
  output, _ = process.communicate(timeout=30)
  assert process.returncode == 0, output
  assert "turn 1 " in output


def _pid_that_runs(machine):
  """The process group of the job's runner, which setsid has made."""
  program = int((machine / "prefixrl_jax" / "math" / "pid").read_text())
  return os.getpgid(program)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ssh_passes_a_signal_on_and_waits_for_the_save(
  stage, monkeypatch, number
):
  monkeypatch.setenv("DOES", "wait,0")
  process = stage.start(*_SSH)
  stage.wait_for("turn0")
  process.send_signal(number)
  output, _ = process.communicate(timeout=30)
  assert process.returncode == 143, output
  assert (stage.shared / "saved").exists()
  assert not (stage.shared / "turn1").exists()


# The first machine is preempted: it is not to be reached, and suspended.
_GCLOUD = """
case "$*" in
  *queued-resources\\ describe*)
    state=$(cat "$SHARED/state" 2> /dev/null) ||
      { echo "ERROR: NOT_FOUND: no such resource" >&2; exit 1; }
    echo "$state" ;;
  *queued-resources\\ create*) echo ACTIVE > "$SHARED/state" ;;
  *queued-resources\\ delete*)
    rm -r "$SHARED/state" "$MACHINE"
    mkdir "$MACHINE" ;;
  *tpu-vm\\ ssh*)
    for word in "$@"; do
      case $word in --command=*) command=${word#--command=} ;; esac
    done
    cd "$MACHINE"
    HOME=$MACHINE bash -c "$command" || exit
    if [[ $* == *"host.sh follow"* ]] && [ -e "$SHARED/preempt" ]; then
      rm "$SHARED/preempt"
      echo SUSPENDED > "$SHARED/state"
    fi
    [ "$(cat "$SHARED/state")" = ACTIVE ] ;;
  *tpu-vm\\ scp*)
    shift 4
    while [[ $1 != *:* ]]; do
      cp "$1" "$MACHINE/prefixrl_jax/math/"
      shift
    done ;;
esac
"""
_TPU = (
  *("tpu_vm", "--slice=v5e:2x4", "--zone=z", "--spot"),
  "--nfs=10.0.0.2:/share:/mnt/share",
)


def test_a_preempted_tpu_is_asked_for_again(stage, monkeypatch):
  stage.command("gcloud", _GCLOUD)
  (stage.shared / "preempt").touch()
  workdir = stage.shared / "runs" / "math"
  workdir.mkdir(parents=True)
  (workdir / "lock.json").touch()  # as if it had been killed
  monkeypatch.setenv("DOES", "143,0")
  argv = [word.replace("/mnt/share", str(stage.shared)) for word in _TPU]
  code, output = stage.run(*argv, workdir=str(workdir))
  assert code == 0, output
  assert "math: SUSPENDED" in output
  assert "turn 1 " in output
  asked = [
    c for c in stage.calls.splitlines() if "queued-resources create" in c
  ]
  assert len(asked) == 2
  assert all(" --spot" in c and "v5litepod-8" in c for c in asked)
  assert not (stage.shared / "state").exists()  # given back
  assert not (workdir / "lock.json").exists()
  assert "alpha compute" not in stage.calls


def test_a_tpu_whose_job_fails_is_named(stage, monkeypatch):
  stage.command("gcloud", _GCLOUD)
  monkeypatch.setenv("DOES", "1")
  workdir = stage.shared / "runs" / "math"
  workdir.mkdir(parents=True)
  (workdir / "lock.json").touch()  # another run's
  argv = [word.replace("/mnt/share", str(stage.shared)) for word in _TPU]
  code, output = stage.run(*argv, workdir=str(workdir))
  assert code == 1, output
  assert (workdir / "lock.json").exists()
  assert "queued-resources delete math --zone=z --force" in output


def test_a_request_that_fails_ends_with_its_reason(stage, monkeypatch):
  stage.command("gcloud", "echo FAILED\n")
  code, output = stage.run(*_TPU)
  assert code == 1
  assert output.count("queued-resources delete") == 1
  assert "create" not in stage.calls


_SBATCH = """
( cd "$SHARED/runs/launch/math"
  while true; do
    rm -f "$SHARED/requeued"
    export SLURM_JOB_ID=7 SLURM_RESTART_COUNT=$((turn++))
    bash job.sbatch >> log 2>&1 &
    echo $! > "$SHARED/batch"
    wait $!
    [ -e "$SHARED/requeued" ] || break
  done
  rm "$SHARED/queued" ) < /dev/null > /dev/null 2>&1 &
touch "$SHARED/queued"
echo "7;cluster"
"""


@pytest.fixture
def slurm(stage):
  stage.command("sbatch", _SBATCH)
  stage.command("squeue", 'if [ -e "$SHARED/queued" ]; then echo 7; fi\n')
  stage.command("scontrol", 'touch "$SHARED/requeued"\n')
  stage.command(
    "srun",
    """
    while [[ $1 == --* ]]; do
      case $1 in --chdir=*) cd "${1#*=}" ;; esac
      shift
    done
    echo $$ > "$SHARED/step"
    exec "$@"
    """,
  )
  stage.command(
    "scancel",
    'kill -TERM "$(cat "$SHARED/batch")" "$(cat "$SHARED/step")"\n',
  )
  return stage


def _slurm(stage):
  return ("slurm", "--slice=h100:8"), {"workdir": f"{stage.shared}/runs/math"}


def test_slurm_submits_prints_the_log_and_has_the_programs_code(
  slurm, monkeypatch
):
  monkeypatch.setenv("DOES", "3")
  argv, where = _slurm(slurm)
  code, output = slurm.run(*argv, **where)
  assert code == 3, output
  assert "turn 0 --config=configs/math.py\n" in output
  assert "scontrol" not in slurm.calls


def test_slurm_queues_again_what_its_time_limit_has_ended(slurm, monkeypatch):
  monkeypatch.setenv("DOES", "wait,0")
  argv, where = _slurm(slurm)
  lock = slurm.shared / "runs" / "math" / "lock.json"
  lock.parent.mkdir(parents=True)
  lock.touch()
  process = slurm.start(*argv, **where)
  slurm.wait_for("turn0")
  assert lock.exists()  # another job's, for all it knows
  os.kill(int((slurm.shared / "step").read_text()), signal.SIGTERM)
  output, _ = process.communicate(timeout=30)
  assert process.returncode == 0, output
  assert "saved" in output
  assert "turn 1 " in output
  assert "scontrol requeue 7\n" in slurm.calls
  assert not lock.exists()


def test_slurm_does_not_queue_again_what_was_cancelled(slurm, monkeypatch):
  monkeypatch.setenv("DOES", "wait,0")
  argv, where = _slurm(slurm)
  process = slurm.start(*argv, **where)
  slurm.wait_for("turn0")
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=30)
  assert process.returncode == 143, output
  assert (slurm.shared / "saved").exists()
  assert "scancel --full --signal=TERM 7\n" in slurm.calls
  assert "scontrol" not in slurm.calls


_KUBECTL = """
case "$*" in
  *"create secret"*) cat > "$SHARED/secret" ;;
  apply*--filename=-*) cat > /dev/null ;;
  logs*) touch "$SHARED/followed"; echo "[pod/math-slice-0-0] turn 0" ;;
  *"get jobset"*) cat "$SHARED/end" ;;
esac
"""
_JOBSET = (
  *("jobset", "--slice=v6e:2x4", "--image=me/prefixrl"),
  "--claim=files:/mnt/share",
)


@pytest.mark.parametrize(("end", "code"), [("Completed", 0), ("Failed", 1)])
def test_a_jobset_is_built_applied_and_followed(stage, monkeypatch, end, code):
  stage.command("kubectl", _KUBECTL)
  stage.command("docker", '[ "$1" != manifest ] && cat > "$SHARED/$1"\n')
  (stage.shared / "end").write_text(f"{end}JobSet")
  monkeypatch.setenv("HF_TOKEN", "$hush")
  ended, output = stage.run(*_JOBSET, "--secrets=HF_TOKEN")
  assert ended == code, output
  assert "[pod/math-slice-0-0] turn 0\n" in output
  assert (stage.shared / "secret").read_text() == "HF_TOKEN=$hush\n"
  assert "hush" not in stage.calls
  built, pushed = (
    call for call in stage.calls.splitlines() if call[:12] in _DOCKER
  )
  image = f"me/prefixrl:{launched.COMMIT[:12]}-tpu"
  assert f"--tag={image}" in built
  assert "--build-arg=EXTRAS=tpu" in built
  assert pushed == f"docker push {image}"
  archive = (stage.shared / "build").read_bytes()
  assert b"prefixrl_jax/main.py" in archive


_DOCKER = ("docker build", "docker push ")


def test_a_jobset_that_somebody_deletes_is_over(stage):
  stage.command("kubectl", _KUBECTL)
  stage.command("docker", "exit 0\n")
  (stage.shared / "end").write_text("")
  code, output = stage.run(*_JOBSET)
  assert code == 1
  assert "math has been deleted" in output


def test_a_cluster_that_does_not_answer_is_asked_again(stage):
  silent = """
    if [[ $* == *"get jobset"* ]] && [ ! -e "$SHARED/asked" ]; then
      touch "$SHARED/asked"
      exit 1
    fi
  """
  stage.command("kubectl", silent + _KUBECTL)
  stage.command("docker", "exit 0\n")
  (stage.shared / "end").write_text("CompletedJobSet")
  code, output = stage.run(*_JOBSET)
  assert code == 0, output


def test_a_jobset_that_is_stopped_is_deleted(stage, monkeypatch):
  stage.command("kubectl", _KUBECTL)
  stage.command("docker", "exit 0\n")
  (stage.shared / "end").write_text("JobSet")
  process = stage.start(*_JOBSET)
  stage.wait_for("followed")
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=30)
  assert process.returncode == 143
  assert "kubectl delete jobset math\n" in stage.calls


def test_skypilot_has_the_commit_and_names_of_secrets(stage):
  stage.command("sky", 'cp -r project task.yaml "$SHARED/"\n')
  argv = ("sky", "--slice=v6e:2x4", "--mount=files:/mnt/share")
  code, output = stage.run(*argv, "--secrets=HF_TOKEN,OTHER")
  assert code == 0, output
  assert (
    "sky jobs launch --yes --name=math --secret HF_TOKEN --secret OTHER"
    " task.yaml\n" in stage.calls
  )
  assert (stage.shared / "project" / "job.sh").exists()
  assert (stage.shared / "project" / "prefixrl_jax" / "main.py").exists()


def test_xpk_is_asked_for_the_workload(stage):
  stage.command("kubectl", _KUBECTL)
  stage.command("docker", "exit 0\n")
  stage.command("xpk", 'printf "%s\\n" "$@" > "$SHARED/xpk"\n')
  (stage.shared / "end").write_text("CompletedJobSet")
  argv = ("xpk", "--slice=v6e:2x2", "--cluster=c", "--zone=z", "--image=i")
  code, output = stage.run(*argv, "--storage=files:/mnt/share")
  assert code == 0, output
  asked = (stage.shared / "xpk").read_text().splitlines()
  assert asked[:2] == ["workload", "create"]
  assert {"--tpu-type=v6e-4", "--env-file=job.env", "--storage=files"} < {
    *asked
  }
  assert (
    "--command=exec python -m prefixrl_jax.main --config=configs/math.py"
    f" --workdir={_WORKDIR}" in asked
  )


@pytest.fixture
def say(tmp_path):
  """Calls host.sh beside a project."""
  (tmp_path / "project").mkdir()
  host = tmp_path / "host.sh"
  host.write_text((launched.ROOT / "launch" / "host.sh").read_text())
  return lambda *argv: subprocess.check_output(
    ("bash", host, *argv), text=True, timeout=30
  )


def test_host_says_that_a_job_runs_until_it_has_let_go_of_its_lock(
  say, tmp_path
):
  """Its code is there a moment earlier."""
  (tmp_path / "code").write_text("0\n")
  with open(tmp_path / "running", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert say("state") == "running\n"
  assert say("state") == "exited 0\n"


def test_host_kills_what_does_not_end_in_its_grace_period(say, tmp_path):
  job = "trap '' TERM; touch ready; while true; do sleep 0.1; done\n"
  (tmp_path / "job.sh").write_text(job)
  assert say("state") == "gone\n"
  say("start", "1")
  say("start", "1")  # again is nothing
  while not pathlib.Path(tmp_path / "project" / "ready").exists():
    time.sleep(0.02)
  assert say("state") == "running\n"
  say("stop")
  deadline = time.monotonic() + 10
  while (state := say("state")) == "running\n":
    assert time.monotonic() < deadline
    time.sleep(0.05)
  assert state == "exited 137\n"
