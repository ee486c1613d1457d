"""What processes decide together, seen from one whose peers are made up."""

import threading

import jax
import numpy as np
import pytest
from etils import epath
from jax._src import monitoring
from jax.sharding import PartitionSpec
from pair import Pair

from prefixrl_jax.distributed import cluster, joining, sharding
from prefixrl_jax.rewards.judging import judge_texts
from prefixrl_jax.storage import files
from prefixrl_jax.types import Problem, UserError, Verdict


@pytest.fixture
def pair(monkeypatch):
  pair = Pair()
  monkeypatch.setattr(cluster, "_group", pair)
  return pair


def test_one_writes_and_all_see_it(pair, tmp_path, monkeypatch):
  path, wrote = epath.Path(tmp_path) / "x" / "file", []
  write = files._write

  def counted(*args):
    wrote.append(pair.index)
    write(*args)

  monkeypatch.setattr(files, "_write", counted)
  assert pair.run(lambda _: files.write_text(path, "hello")) == [None, None]
  assert path.read_text() == "hello"
  assert pair.run(lambda _: files.remove(path)) == [None, None]
  assert wrote == [0]
  assert not path.exists()


def test_a_folder_that_is_not_shared_is_noticed(pair, tmp_path):
  folders = [epath.Path(tmp_path) / name for name in "ab"]
  # Of the same length, as an old file of the same name would be.
  folders[1].mkdir()
  (folders[1] / "file").write_text("other")
  first, second = pair.run(
    lambda i: files.write_text(folders[i] / "file", "hello")
  )
  assert first is None
  assert isinstance(second, UserError)
  assert "process 0 (a) has a file of other contents" in str(second)
  assert "--workdir must be one folder that all processes share" in str(second)


def test_what_the_first_cannot_do_is_an_error_of_all(pair, tmp_path):
  (tmp_path / "file").write_text("")
  path = epath.Path(tmp_path) / "file" / "within"
  errors = pair.run(lambda _: files.write_text(path, "hello"))
  assert [type(e) for e in errors] == [UserError] * 2
  assert str(errors[0]) == str(errors[1])
  assert "within cannot be written" in str(errors[0])


def test_what_differs_is_named_on_all(pair):
  def check(index):
    values = {"config.train.flops": 10.0**index, "jax": "0.10"}
    cluster.check_same("settings", values)

  for error in pair.run(check):
    assert isinstance(error, UserError)
    assert str(error) == (
      "the processes have different settings: config.train.flops is 1.0 on"
      " process 0 (a) and 10.0 on process 1 (b)."
    )
  assert pair.run(lambda _: cluster.check_same("x", {"y": 1})) == [None, None]


def test_what_fails_on_one_is_given_up_by_all(pair):
  def restore(index):
    if index:
      raise OSError("cannot be read")
    return "restored"

  first, second = pair.run(
    lambda i: cluster.agreed("restore", lambda: restore(i), UserError)
  )
  assert isinstance(second, OSError)
  assert isinstance(first, RuntimeError)
  assert "cannot be read" in str(first)

  def damaged(index):
    raise UserError("damaged") if index else OSError("cannot be read")

  kinds = pair.run(
    lambda i: cluster.agreed("restore", lambda: damaged(i), UserError)
  )
  assert [str(e) for e in kinds][1] == "damaged"
  assert [type(e) for e in kinds] == [UserError] * 2
  alike = pair.run(lambda i: cluster.agreed("x", lambda: i, UserError))
  assert alike == [0, 1]


def test_the_first_s_rows_are_all_s(pair):
  made = pair.run(lambda i: cluster.of_first("rows", lambda: [i, "row"]))
  assert made == [[0, "row"]] * 2
  assert pair.run(lambda i: cluster.any_of("came", i == 1)) == [True] * 2


def test_only_the_first_keeps_a_log(pair):
  class Log(list):
    def __enter__(self):
      self.append("entered")

    def __exit__(self, *_):
      self.append("left")

  logs = [Log(), Log()]

  def run(index):
    with cluster.OnFirst(lambda: logs[index]) as log:
      log.append(index)

  assert pair.run(run) == [None, None]
  assert logs == [["entered", 0, "left"], []]


class _Verifier:
  """Judges by its own clock: what one process has time for, another has not."""

  def __init__(self, index, judged):
    self._index, self._judged = index, judged

  def judge(self, problems, texts):
    self._judged += texts
    return [Verdict(1.0, timed_out=bool(self._index)) for _ in texts]


def test_processes_share_the_judging_and_have_the_same_verdicts(pair):
  judged = [[], []]
  texts = list("abcde")
  problem = Problem("p", "?", "!", "source", "train", 0)
  verdicts = pair.run(
    lambda i: judge_texts(_Verifier(i, judged[i]), [problem] * 5, texts)
  )
  assert judged == [["a", "c", "e"], ["b", "d"]]
  assert verdicts[0] == verdicts[1]
  assert verdicts[0] == [Verdict(1.0, timed_out=i % 2 == 1) for i in range(5)]


def test_every_array_is_put_as_device_put_puts_it(eight_devices, rng):
  x = rng.standard_normal((8, 6), np.float32)
  for axes in (("rows", None), (None, "heads"), (None, None)):
    where = sharding.sharding(eight_devices, x.shape, *axes)
    here = sharding.put(x, where)
    # What processes do that have not all devices.
    there = jax.make_array_from_callback(x.shape, where, lambda at: x[at])
    assert here.sharding == there.sharding == where
    for a, b in zip(here.addressable_shards, there.addressable_shards):
      np.testing.assert_array_equal(a.data, b.data)


def test_blocks_of_an_array_are_its_values(eight_devices, rng):
  x = rng.standard_normal((7, 4), np.float32)
  spec = PartitionSpec(None, "tensor")
  put = sharding.put(x, jax.sharding.NamedSharding(eight_devices, spec))
  whole = sharding.replicated(eight_devices)
  blocks = [
    np.asarray(sharding._whole(put, np.int32(start), min(3, 7 - start), whole))
    for start in range(0, 7, 3)
  ]
  np.testing.assert_array_equal(np.concatenate(blocks), x)
  np.testing.assert_array_equal(sharding.fetch(put), x)
  assert sharding.fetch(np.float32(3)) == 3


def test_processes_meet_after_each_program_that_they_compile(monkeypatch):
  class Group:
    index, size, met = 0, 2, []

    def gather(self, what, value):
      self.met.append(what)
      return [value] * 2

  monkeypatch.setattr(cluster, "_group", Group())
  joining._meet_after_compiling()
  try:
    program = jax.jit(lambda x: x * 3 + 0.125)
    x = np.ones(3, np.float32)
    program(x)
    (name,) = Group.met
    assert name.startswith("compiled ")
    program(x)  # is there already
    with cluster.alone():  # no other process does
      jax.jit(lambda x: x * 5 + 0.125)(x)
    thread = threading.Thread(target=jax.jit(lambda x: x * 7 + 0.125), args=[x])
    thread.start()  # as Orbax's, in any order
    thread.join()
    assert Group.met == [name]
  finally:
    monitoring.unregister_event_duration_listener(
      monitoring.get_event_duration_listeners()[-1]
    )
