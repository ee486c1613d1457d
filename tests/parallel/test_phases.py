"""What is done side by side, in which order, by how many processes."""

import types

import pytest
from etils import epath

from prefixrl_jax.configs import demo
from prefixrl_jax.distributed import processor
from prefixrl_jax.parallel import phases
from prefixrl_jax.parallel.phases import Phase
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.types import UserError

_DATA = ("screen", "collect", "cut")
_RUNS = ("train", "evaluate")
_ALL = (*_DATA, *_RUNS, "report")


@pytest.fixture
def machine(monkeypatch):
  """A CPU of 2 cores and 100 GiB, a model of 1,000 parameters."""
  machine = types.SimpleNamespace(
    cores=2, gib=100, parameters=1000, devices=1, backend="cpu"
  )
  patch = monkeypatch.setattr
  patch(processor, "num_cores", lambda: machine.cores)
  patch(processor, "memory_bytes", lambda: machine.gib * 2**30)
  patch(phases.parameters, "num_params", lambda _: machine.parameters)
  patch(phases.memory_plan, "plan", lambda *_: {"all": 0.5 * 2**30})
  patch(phases.jax, "default_backend", lambda: machine.backend)
  session = types.SimpleNamespace(model=None, rows_per_microbatch=1)
  session.mesh = types.SimpleNamespace(size=1)
  patch(Workspace, "session", session)
  machine.mesh = session.mesh
  return machine


def _work(tmp_path, arg="arms=rl+prefixrl,seeds=3", **fields):
  config = demo.get_config(f"tiny=true,{arg}")
  config.update_from_flattened_dict(fields)
  return Workspace(config, epath.Path(tmp_path))


@pytest.mark.parametrize(
  ("arg", "cores", "expected"),
  [
    (
      "arms=rl+prefixrl,seeds=3",
      2,
      [Phase((*_DATA, *_RUNS), 2), Phase(("report",))],
    ),
    # Each seed's data on two of four cores, then each run on one.
    (
      "arms=rl+prefixrl,seeds=2",
      4,
      [Phase(_DATA, 2), Phase(_RUNS, 4), Phase(("report",))],
    ),
    # One seed's data are this process's, on all cores.
    (
      "arms=rl+prefixrl",
      8,
      [Phase(_DATA), Phase(_RUNS, 2), Phase(("report",))],
    ),
    ("arms=rl+prefixrl,seeds=3", 1, [Phase(_ALL)]),
    ("arms=rl", 8, [Phase(_ALL)]),
  ],
)
def test_how_many_processes_there_are_at_a_time(
  tmp_path, machine, arg, cores, expected
):
  machine.cores = cores
  assert phases.phases(_work(tmp_path, arg), _ALL, None) == expected


@pytest.mark.parametrize(
  ("fact", "asked", "num_jobs", "said"),
  [
    (dict(), None, 2, ""),
    (dict(parameters=10**8), None, 1, ""),
    (dict(parameters=10**8), 2, 2, ""),
    (dict(backend="gpu"), None, 1, ""),
    (dict(backend="gpu"), 2, 0, "--jobs=2: processes cannot share a GPU"),
    # A process takes 2 GiB: its plan, and libraries.
    (dict(gib=3), None, 1, ""),
    (dict(gib=5, cores=8), None, 2, ""),
    (dict(gib=5), 3, 0, "may take 2.0 GiB, of 5.0; there is room for 2"),
    (dict(), 1, 1, ""),
    (dict(), 99, 6, ""),  # runs
  ],
)
def test_how_many_a_machine_bears(
  tmp_path, machine, fact, asked, num_jobs, said
):
  vars(machine).update(fact)
  divide = lambda: phases.phases(_work(tmp_path), _RUNS, asked)
  if said:
    with pytest.raises(UserError, match=said):
      divide()
  else:
    assert divide()[0].num_jobs == num_jobs


def test_a_mesh_of_several_devices_is_not_divided(tmp_path, machine):
  machine.mesh.size = 8
  assert phases.phases(_work(tmp_path), _ALL, None) == [Phase(_ALL)]


def _jobs(work, stages):
  return [
    (job.name, job.argv, job.log.name, [need.name for need in job.needs])
    for job in phases._jobs(work, stages)
  ]


def test_arms_take_turns_after_their_data_and_evaluations_come_last(tmp_path):
  work = _work(tmp_path, "arms=rl+prefixrl,seeds=2")
  jobs = _jobs(work, ("collect", "screen", *_RUNS, "cut"))
  assert [name for name, *_ in jobs] == [
    *("data seed 0", "data seed 1", "rl seed 0", "prefixrl seed 0"),
    *("rl seed 1", "prefixrl seed 1"),
    *("rl seed 0, evaluation", "prefixrl seed 0, evaluation"),
    *("rl seed 1, evaluation", "prefixrl seed 1, evaluation"),
    *("base seed 0, evaluation", "base seed 1, evaluation"),
  ]
  assert jobs[1][2:] == ("data-seed_1.log", [])
  assert jobs[4][1:] == (
    ["train/rl/seed_1"],
    "rl-seed_1.log",
    ["data seed 1"],
  )
  assert jobs[8][1:] == (
    ["evaluate/rl/seed_1"],
    "rl-seed_1.log",
    ["data seed 1", "rl seed 1"],
  )
  assert jobs[10][1] == ["evaluate/base/seed_0"]


def test_arms_that_begin_with_sft_come_last(tmp_path):
  jobs = _jobs(_work(tmp_path, "arms=sft_rl+rl+prefixrl"), (*_DATA, "train"))
  assert [name for name, *_ in jobs[1:]] == [
    *("rl seed 0", "prefixrl seed 0", "sft_rl seed 0"),
  ]


def test_seeds_that_share_their_data_need_those_of_the_first(tmp_path):
  work = _work(tmp_path, "arms=rl,seeds=2", fresh_data_per_seed=False)
  jobs = _jobs(work, (*_DATA, "train"))
  assert [(name, needs) for name, _, _, needs in jobs] == [
    ("data seed 0", []),
    ("rl seed 0", ["data seed 0"]),
    ("rl seed 1", ["data seed 0"]),
  ]


@pytest.mark.parametrize(
  ("stages", "stage"),
  [(("cut",), "screen"), (("screen", "train"), "collect"), (_RUNS, "screen")],
)
def test_what_is_not_there_is_said_before_anything_begins(
  tmp_path, stages, stage
):
  with pytest.raises(UserError) as e:
    phases._jobs(_work(tmp_path), stages)
  assert str(e.value).endswith(
    f"data/seed_0/{stage} is not complete; run --stage={stage} first."
  )


def test_a_worker_asks_for_nothing_that_was_done(tmp_path):
  argv = ["--config=c.py", "--fresh", "--redo=train", "--stage=all", "--"]
  assert phases._worker(argv, ("train", "evaluate"))[2:] == [
    "prefixrl_jax.worker",
    *argv[:-1],
    "--stage=train,evaluate",
    "--nofresh",
    "--redo=",
  ]


def test_a_container_s_share_of_the_machine_counts(tmp_path, monkeypatch):
  monkeypatch.setattr(processor, "_LIMITS", tmp_path)
  cores, memory = processor.num_cores(), processor.memory_bytes()
  (tmp_path / "cpu.max").write_text("max 100000\n")
  (tmp_path / "memory.max").write_text("max\n")
  assert (processor.num_cores(), processor.memory_bytes()) == (cores, memory)
  (tmp_path / "cpu.max").write_text("50000 100000\n")
  (tmp_path / "memory.max").write_text("1048576\n")
  assert (processor.num_cores(), processor.memory_bytes()) == (1, 1048576)
