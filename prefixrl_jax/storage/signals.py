"""Signals: raised at once, or deferred where work must not be cut off."""

import os
import signal
import sys
import threading

from prefixrl_jax.types import Preempted


class Deferred:
  """Defers signals; one that nobody took is delivered at the end."""

  def __init__(self, *numbers: int):
    """Sets which signals are deferred.

    Args:
      numbers: SIGINT (Ctrl-C), SIGTERM.
    """
    self._numbers, self._came = numbers, 0

  @property
  def is_set(self) -> bool:
    """Whether one came."""
    return bool(self._came)

  def take(self) -> bool:
    """Returns whether one came; the caller must then act on it."""
    came, self._came = self._came, 0
    return bool(came)

  def _handle(self, number, _frame) -> None:
    self._came = number

  def __enter__(self) -> "Deferred":
    self._previous = [signal.signal(n, self._handle) for n in self._numbers]
    return self

  def __exit__(self, *_) -> None:
    for number, handler in zip(self._numbers, self._previous):
      signal.signal(number, handler)
    if self._came:
      signal.raise_signal(self._came)


def raise_preempted(*_) -> None:
  """Handles SIGTERM as Python handles Ctrl-C, wherever it arrives.

  Raises:
    Preempted: always.
  """
  raise Preempted("what is complete is kept")


def redeliver_unraisable() -> None:
  """Keeps signals from getting lost where Python cannot raise.

  What a handler raises inside a finalizer or a callback of the garbage
  collector is only printed there; the signal is sent again a moment later.
  """
  numbers = {Preempted: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}
  previous = sys.unraisablehook

  def hook(unraisable) -> None:
    number = numbers.get(unraisable.exc_type)
    if number is None:
      previous(unraisable)
    else:
      threading.Timer(0.05, os.kill, (os.getpid(), number)).start()

  sys.unraisablehook = hook
