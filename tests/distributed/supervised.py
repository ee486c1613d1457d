"""A process of a cluster that needs no JAX; started by test_supervisor.py.

python supervised.py ADDRESS SIZE INDEX SCENARIO WHO: gathers, and then what the
scenario has process WHO do.
"""

import os
import signal
import sys
import time

from prefixrl_jax.distributed import cluster, supervisor
from prefixrl_jax.distributed.places import Place
from prefixrl_jax.storage import signals
from prefixrl_jax.types import Preempted, UserError


def _act(scenario: str) -> None:
  if scenario == "is killed":
    os.kill(os.getpid(), signal.SIGKILL)
  elif scenario == "is stopped":
    os.kill(os.getpid(), signal.SIGSTOP)
  elif scenario == "is lost":
    os.kill(os.getppid(), signal.SIGKILL)
  elif scenario == "is silent":
    os.kill(os.getppid(), signal.SIGSTOP)
  elif scenario == "is told to end":
    os.kill(os.getppid(), signal.SIGTERM)
  elif scenario == "fails":
    raise UserError("its disk is full")
  elif scenario == "is elsewhere":
    cluster.gather("elsewhere", 0)


def _run(scenario: str, is_who: bool, index: int, size: int) -> None:
  for turn in range(3):
    everyone = [[turn, i] for i in range(size)]
    assert cluster.gather(f"turn {turn}", [turn, index]) == everyone
  if scenario == "all fail":
    raise UserError("no problem is hard")
  if is_who:
    _act(scenario)
  elif scenario == "is killed":
    # What a collective says at once when its peer is gone.
    time.sleep(0.1)
    raise RuntimeError("connection closed by peer")
  if scenario != "ends":
    cluster.gather("what comes next", 0)
    for _ in range(600):  # a signal just before a long sleep waits for its end
      time.sleep(0.1)


def main(address, size, index, scenario, who):
  signal.signal(signal.SIGTERM, signals.raise_preempted)
  member = supervisor.enter(
    Place(address, int(size), int(index)), join_seconds=90, heartbeat=3
  )
  code, message, is_known = 0, "", True
  try:
    member.wait_for_all()
    cluster.join(member)
    _run(scenario, index == who, int(index), int(size))
  except UserError as e:
    code, message = 1, f"error: {e}"
  except Preempted as e:
    code, message = 143, f"terminated, {e}"
  except RuntimeError as e:
    code, message, is_known = 1, f"error: {e}", False
  member.end(code, message, is_known)
  os._exit(code)


if __name__ == "__main__":
  main(*sys.argv[1:])
