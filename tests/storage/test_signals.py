"""Signals: raised at once, or behind what must not be cut off."""

import signal
import time

import pytest
from absl import app

from prefixrl_jax import main
from prefixrl_jax.storage import signals
from prefixrl_jax.types import Preempted


@pytest.fixture(autouse=True)
def _handler():
  before = signal.signal(signal.SIGTERM, signals.raise_preempted)
  yield
  signal.signal(signal.SIGTERM, before)


def test_a_signal_comes_at_the_end_of_the_outermost_block():
  done = []

  def work():
    with signals.Deferred(signal.SIGTERM):
      with signals.Deferred(signal.SIGINT, signal.SIGTERM) as inner:
        signal.raise_signal(signal.SIGTERM)
        assert inner.is_set
        done.append("inner")
      done.append("outer")
    done.append("behind")

  with pytest.raises(Preempted):
    work()
  assert done == ["inner", "outer"]


def test_one_that_was_taken_does_not_come_again():
  with signals.Deferred(signal.SIGTERM) as deferred:
    assert not deferred.take()
    signal.raise_signal(signal.SIGTERM)
    assert deferred.take()
    assert not deferred.take()
  assert signal.getsignal(signal.SIGTERM) == signals.raise_preempted


def test_nothing_that_catches_errors_catches_it():
  def careless():
    try:
      signal.raise_signal(signal.SIGTERM)
    except Exception:
      return

  with pytest.raises(Preempted):
    careless()


def test_sigterm_ends_any_stage_with_its_exit_code(monkeypatch, capsys):
  monkeypatch.setattr(main.huge_pages, "ensure", lambda: None)
  monkeypatch.setattr(main.sys, "argv", ["main"])
  run = lambda *_, **__: signal.raise_signal(signal.SIGTERM)
  monkeypatch.setattr(app, "run", run)
  with pytest.raises(SystemExit) as e:
    main.main()
  assert e.value.code == 143
  said = (
    "terminated, what is complete is kept; re-run the same command to resume\n"
  )
  assert capsys.readouterr().err == said


@pytest.mark.parametrize(
  ("number", "raised"),
  [(signal.SIGTERM, Preempted), (signal.SIGINT, KeyboardInterrupt)],
)
def test_none_is_lost_in_a_finalizer(number, raised):
  """Python can only print there what the handler raises."""
  signal.signal(signal.SIGTERM, signals.raise_preempted)
  signal.signal(signal.SIGINT, signal.default_int_handler)
  signals.redeliver_unraisable()

  class Finalized:
    def __del__(self):
      signal.raise_signal(number)

  def work():
    Finalized()
    time.sleep(60)

  with pytest.raises(raised):
    work()
