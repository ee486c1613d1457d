"""Metrics: every sink has every row once, a resumed run's too."""

import io
import os
import re
import sys
import time
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from etils import epath
from rich import console
from tensorboardX.proto import event_pb2

from prefixrl_jax.configs import demo, sections
from prefixrl_jax.distributed.compilation import CompilationCounter
from prefixrl_jax.storage import metrics
from prefixrl_jax.storage.metrics import (
  MetricWriter,
  StepLog,
  Timers,
  read_jsonl,
)
from prefixrl_jax.types import Completion


def _write(folder, steps, resume_step=None):
  with MetricWriter(folder, resume_step=resume_step) as writer:
    for step in steps:
      writer.write(step, {"a": step, "b": float("nan")})


def test_a_resumed_run_has_every_step_once(tmp_path):
  folder = epath.Path(tmp_path)
  _write(folder, [1, 2, 3, 4])
  with (folder / "metrics.jsonl").open("a") as f:
    f.write('{"step": 5, "a"')  # killed while writing
  _write(folder, [3, 4, 5], resume_step=2)
  rows = metrics.read_jsonl(folder / "metrics.jsonl")
  assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
  assert rows[-1] == {"step": 5, "a": 5.0, "b": None}


def test_a_kill_right_after_a_resume_loses_no_row(tmp_path):
  folder = epath.Path(tmp_path)
  _write(folder, [1, 2, 3])
  with MetricWriter(folder, resume_step=2) as writer:
    # What is on the disk here is all that a kill leaves.
    rows = metrics.read_jsonl(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    writer.write(3, {})
    rows = metrics.read_jsonl(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]


def test_a_kill_while_resuming_loses_no_row(tmp_path, monkeypatch):
  folder = epath.Path(tmp_path)
  _write(folder, [1, 2, 3])
  before = (folder / "metrics.jsonl").read_bytes()

  def killed(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "fsync", killed)
  with pytest.raises(KeyboardInterrupt):
    MetricWriter(folder, resume_step=2)
  assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
  "broken",
  [
    b'{"step": 2, "a"',
    b"\xff\xfe\x00",
    b"\x00" * 40,
    b"[]",
    b"{}",
    b"7",
    b'{"step": "two"}',
    b"[" * 100_000,
    b"",
  ],
  ids=lambda line: str(line[:12]),
)
def test_a_broken_line_costs_no_other_row(tmp_path, broken, caplog):
  folder = epath.Path(tmp_path)
  path = folder / "metrics.jsonl"
  _write(folder, [1, 2, 3, 4])
  lines = path.read_bytes().split(b"\n")
  lines[1] = broken
  path.write_bytes(b"\n".join(lines))
  _write(folder, [4, 5], resume_step=3)
  rows = metrics.read_jsonl(path)
  assert [row["step"] for row in rows] == [1, 3, 4, 5]
  assert path.read_bytes().split(b"\n")[:3] == [lines[0], broken, lines[2]]
  assert "metrics.jsonl:2 is not a row" in caplog.text


def test_a_last_row_without_its_newline_is_a_row(tmp_path):
  folder = epath.Path(tmp_path)
  path = folder / "metrics.jsonl"
  _write(folder, [1, 2])
  path.write_bytes(path.read_bytes()[:-1])
  _write(folder, [3], resume_step=2)
  assert [row["step"] for row in metrics.read_jsonl(path)] == [1, 2, 3]


def _events(folder):
  """Returns TensorBoard's events of a run, process by process."""
  found = []
  for file in sorted(folder.iterdir()):
    data = file.read_bytes()
    while data:
      # A record: length, checksum, event, checksum.
      length = int.from_bytes(data[:8], "little")
      found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
      data = data[12 + length + 4 :]
  return found


def test_writes_tensorboard_events_soon(tmp_path):
  with MetricWriter(epath.Path(tmp_path), resume_step=None) as writer:
    writer.write(7, {"a": 7.0})
    scalars: dict[str, tuple[int, float]] = {}
    for _ in range(600):  # a second, unless the machine is very busy
      scalars = {
        v.tag: (e.step, v.simple_value)
        for e in _events(tmp_path / "tensorboard")
        for v in e.summary.value
      }
      if scalars:
        break
      time.sleep(0.1)
  assert scalars["a"] == (7, 7.0)


def test_tensorboard_hides_only_steps_that_come_again(tmp_path):
  _write(epath.Path(tmp_path), [3], resume_step=2)
  # It hides events of earlier processes from this step on.
  starts = [
    e.step
    for e in _events(tmp_path / "tensorboard")
    if e.session_log.status == event_pb2.SessionLog.START
  ]
  assert starts == [3]


class _Wandb(types.ModuleType):
  """Stands for wandb; fails in the call that is named."""

  def __init__(self, failing):
    super().__init__("wandb")
    self.failing, self.rows, self.finished = failing, [], False
    self.started = []

  def _call(self, name):
    if name == self.failing:
      raise ConnectionError("no\nnetwork")

  def init(self, **kwargs):
    self._call("init")
    self.started.append(kwargs)
    return self

  def log(self, metrics, step):
    self._call("log")
    self.rows.append((step, metrics))

  def finish(self):
    self._call("finish")
    self.finished = True


def _settings(**fields):
  return ml_collections.ConfigDict(sections.wandb() | fields)


@pytest.mark.parametrize("failing", ["", "init", "log", "finish"])
def test_no_run_is_lost_to_wandb(tmp_path, monkeypatch, caplog, failing):
  wandb = _Wandb(failing)
  monkeypatch.setitem(sys.modules, "wandb", wandb)
  folder = epath.Path(tmp_path)
  settings = _settings(project="p")
  with MetricWriter(folder, resume_step=None, wandb=settings) as writer:
    writer.write(1, {"a": 1.0})
    writer.write(2, {"a": 2.0})
  rows = metrics.read_jsonl(folder / "metrics.jsonl")
  assert [row["step"] for row in rows] == [1, 2]
  logged = [(1, {"a": 1.0}), (2, {"a": 2.0})]
  assert wandb.rows == ([] if failing in ("init", "log") else logged)
  assert wandb.finished is (failing == "")
  said = [r.getMessage() for r in caplog.records]
  assert len(said) == (failing != "")
  assert all("(ConnectionError: no network)" in text for text in said)


def _started(monkeypatch, folder, resume_step, **fields):
  """Returns what wandb.init is given for the run "rl seed 0"."""
  wandb = _Wandb("")
  monkeypatch.setitem(sys.modules, "wandb", wandb)
  settings = _settings(**fields)
  MetricWriter(
    epath.Path(folder),
    resume_step=resume_step,
    wandb=settings,
    name="rl seed 0",
  ).__exit__()
  return wandb.started


def test_wandb_is_told_what_the_config_says(tmp_path, monkeypatch):
  assert _started(monkeypatch, tmp_path, 0) == []
  [started] = _started(monkeypatch, tmp_path, 0, project="p")
  assert len(started.pop("id")) == 8
  plain = dict(
    project="p",
    mode=None,  # WANDB_MODE decides
    name="rl seed 0",
    group=None,
    resume="allow",
    dir=str(tmp_path),
  )
  assert started == plain
  own = dict(project="p", mode="offline", name="big", group="sweep 3")
  [started] = _started(monkeypatch, tmp_path, 0, **own)
  del started["id"]
  assert started == plain | own | dict(name="big rl seed 0")


def test_a_resumed_run_goes_on_in_the_same_one_of_wandb(tmp_path, monkeypatch):
  """One from the start, as after --fresh, or if asked to, is another."""
  ids = [
    _started(monkeypatch, tmp_path, step, project="p", resume=resume)[0]["id"]
    for step, resume in [(0, True), (7, True), (7, True), (7, False), (0, True)]
  ]
  assert ids[0] == ids[1] == ids[2]
  assert len({*ids}) == 3
  [elsewhere] = _started(monkeypatch, tmp_path / "rl_1", 7, project="p")
  assert elsewhere["id"] not in ids


def _console(monkeypatch, *, is_terminal):
  """Returns what progress is written to from now on."""
  file = io.StringIO()
  monkeypatch.setattr(
    metrics,
    "Console",
    lambda **_: console.Console(
      file=file,
      force_terminal=is_terminal,
      width=100,
      color_system=None,
      highlight=False,
    ),
  )
  return file


def test_figures_leave_the_bar_its_width(monkeypatch):
  file = _console(monkeypatch, is_terminal=True)
  figures = dict.fromkeys(("FLOPs", "tried", "tokens", "c"), "123456789")
  with metrics.Progress("collect, seed 0", total=8) as progress:
    assert "compiling …" in file.getvalue()
    progress.update(4, **figures)
  # What was drawn last: the bar, and the figures under it.
  drawn = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", file.getvalue())
  *_, bar, below = drawn.split("\r")[-1].rstrip().split("\n")
  assert "collect, seed 0" in bar
  assert "50%" in bar
  assert bar.count("━") > 30  # half of it
  assert "FLOPs 123456789  tried 123456789  tokens 123456789  c" in below
  assert "compiling" not in below


def test_a_pipe_gets_a_line_now_and_then(monkeypatch):
  file = _console(monkeypatch, is_terminal=False)
  now = 1000.0
  monkeypatch.setattr(metrics.time, "monotonic", lambda: now)
  with metrics.Progress("collect", total=8) as progress:
    for i in range(1, 9):
      now += 10.0
      progress.update(i, tried=str(10 * i))
    now += 29.0
    progress.log("[said]")
    now += 29.0
    progress.update(8, tried="90")
  assert file.getvalue().splitlines() == [
    "collect  compiling …",
    "collect  38%  tried 30",
    "collect  75%  tried 60",
    "[said]",
  ]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_says_that_it_compiles(monkeypatch, is_terminal):
  file = _console(monkeypatch, is_terminal=is_terminal)
  with metrics.busy("rl seed 0  compiling …"):
    pass
  assert "rl seed 0  compiling …" in file.getvalue()


def test_says_when_no_group_has_had_signal(tmp_path, capsys):
  """Counted over a resume; SFT's steps have no groups and do not count."""
  config = demo.get_config()
  config.train.log_every = 1

  def log(resume_step):
    return StepLog(
      "rl",
      epath.Path(tmp_path),
      budget=9.0,
      resume_step=resume_step,
      config=config,
    )

  signal = lambda a, b: {
    "flops_paper": 1.0,
    "train/prefixed/signal": a,
    "train/no_prefix/signal": b,
  }
  with log(0) as steps:
    steps.write(1, {"flops_paper": 0.5, "sft/loss": 1.0})
    steps.write(2, signal(0.0, 0.25))
    for step in range(3, 15):
      steps.write(step, signal(0.0, 0.0))
  with log(12) as steps:
    for step in range(13, 25):
      steps.write(step, signal(0.0, 0.0))
    said = capsys.readouterr().err
    assert "no group has had signal for 20 steps" in said
    assert "for 19 steps" not in said
    steps.write(25, signal(0.5, 0.0))
    assert "signal for" not in capsys.readouterr().err
  counted = {
    row["step"]: row.get("train/steps_without_signal")
    for row in read_jsonl(epath.Path(tmp_path) / "metrics.jsonl")
  }
  assert [counted[i] for i in (1, 2, 3, 13, 24, 25)] == [None, 0, 1, 11, 22, 0]


def test_timers_add_up_and_start_anew(monkeypatch):
  timers = Timers()
  now = iter([1.0, 3.0, 10.0, 14.5, 20.0, 20.25])
  monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(now))
  for name in ("x", "x", "y"):
    with timers(name):
      pass
  assert timers.pop() == {"time/x": 6.5, "time/y": 0.25}
  assert timers.pop() == {}


def test_what_a_block_took_counts_though_it_raised(monkeypatch):
  timers = Timers()
  now = iter([1.0, 3.0])
  monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(now))
  with pytest.raises(KeyError), timers("x"):
    raise KeyError
  assert timers.pop() == {"time/x": 2.0}


def test_group_metrics_by_hand():
  completion = lambda length, truncated: Completion(
    np.zeros(length, np.int32), np.zeros(length, np.float32), truncated
  )
  rewards = np.array([[1.0, 0.0], [1.0, 1.0], [0.5, 0.0]])
  groups = [
    [completion(2, False), completion(4, True)],
    [completion(1, False), completion(1, False)],
    [completion(8, True), completion(4, True)],
  ]
  marks = np.array([[1.0, 0.5], [0.0, 0.5], [0.25, 0.75]])
  found = metrics.group_metrics(
    np.array([True, True, False]), rewards, groups, marks
  )
  assert found == {
    "train/prefixed/reward": 0.75,
    "train/prefixed/accuracy": 0.75,
    "train/prefixed/any_correct": 1.0,
    "train/prefixed/all_correct": 0.5,
    "train/prefixed/signal": 0.5,
    "train/prefixed/length": 2.0,
    "train/prefixed/truncated": 0.25,
    "train/prefixed/marker": 0.5,
    "train/no_prefix/reward": 0.25,
    "train/no_prefix/accuracy": 0.0,  # half right is not right
    "train/no_prefix/any_correct": 0.0,
    "train/no_prefix/all_correct": 0.0,
    "train/no_prefix/signal": 1.0,  # 0.5 is more than 0
    "train/no_prefix/length": 6.0,
    "train/no_prefix/truncated": 1.0,
    "train/no_prefix/marker": 0.5,
  }
  found = metrics.group_metrics(np.array([True, True, False]), rewards, groups)
  assert "train/prefixed/marker" not in found


def test_counts_what_is_compiled_while_it_listens():
  f = jax.jit(lambda x: x * 3 + 1)
  x = jnp.ones(3)
  with CompilationCounter() as compilations:
    f(x)
    assert compilations.count == 1
    f(x)
    assert compilations.count == 1
  f(jnp.ones(4))
  assert compilations.count == 1
