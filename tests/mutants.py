"""Breaks the core in one place at a time; the tests must notice each time.

  python tests/mutants.py                 all of them, an hour on a core
  python tests/mutants.py --only=ledger   those whose file or name has it

Prints a line a mutant, and ends with 1 if one survived, or if one is stale:
the text that it changes is not in its file (once) any more. Not part of the
tests, since it takes longer than they do; run it after changing a test of the
core. A new mutant is a row of mutants_of_learning, _workdirs or _rewards.
"""

import argparse
import dataclasses
import itertools
import multiprocessing
import os
import pathlib
import shutil
import sys
import tempfile
import time

import mutants_of_learning
import mutants_of_rewards
import mutants_of_workdirs
import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_LONGEST_SECONDS = 900
_OF_PYTEST = 100  # an exit code of its own: others are not the tests'
_SECONDS = itertools.count(10**9)  # of 2001
_PROCESSES = multiprocessing.get_context("forkserver")
_IMPORTED = ("jax", "flax.linen", "optax", "orbax.checkpoint")


@dataclasses.dataclass(frozen=True)
class Mutant:
  """One fault.

  Attributes:
    file: within prefixrl_jax/.
    old: text that occurs once in it; empty: `new` is appended.
    new: in its place.
    tests: files within tests/, or tests of theirs, that shall notice.
  """

  file: str
  old: str
  new: str
  tests: tuple[str, ...]

  @property
  def name(self) -> str:
    """Names the fault on one line."""
    old, new = (" ".join(text.split()) for text in (self.old, self.new))
    return f"{self.file}: {old or 'its end'} -> {new or 'nothing'}"

  def apply(self, text: str) -> str:
    """Returns the faulty file; raises ValueError if the mutant is stale."""
    if not self.old:
      return text + "\n" + self.new + "\n"
    if text.count(self.old) != 1:
      raise ValueError(f"found {text.count(self.old)} times")
    return text.replace(self.old, self.new)


MUTANTS = [
  Mutant(file, *change, tuple(tests.split()))
  for file, tests, *changes in (
    *mutants_of_learning.ROWS,
    *mutants_of_workdirs.ROWS,
    *mutants_of_rewards.ROWS,
  )
  for change in changes
]


def main() -> int:
  """Runs the mutants; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument(
    "--only", default="", help="Part of a mutant's file or name."
  )
  only = parser.parse_args().only
  chosen = [m for m in MUTANTS if only in m.name]
  if not chosen:
    parser.error(f"--only={only}: no mutant has that in its name")
  failed, started_at = 0, time.monotonic()
  with tempfile.TemporaryDirectory() as scratch:
    copy = pathlib.Path(scratch) / "copy"
    shutil.copytree(
      _ROOT, copy, ignore=shutil.ignore_patterns(".*", "runs", "__pycache__")
    )
    _PROCESSES.set_forkserver_preload([*_IMPORTED])
    # Most of the time is compiling, of much that no mutant changes.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{scratch}/compiled"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    passed: set[tuple[str, ...]] = set()
    for mutant in chosen:
      if mutant.tests not in passed and not _pass(copy, mutant.tests):
        print(f"{', '.join(mutant.tests)}: fail without any mutant")
        return 1
      passed.add(mutant.tests)
      started = time.monotonic()
      verdict = _try(copy, mutant)
      failed += verdict != "killed"
      seconds = time.monotonic() - started
      print(f"{verdict:8} {seconds:5.0f} s  {mutant.name}", flush=True)
  minutes = (time.monotonic() - started_at) / 60
  print(
    f"{len(chosen) - failed} of {len(chosen)} mutants killed, {minutes:.0f} min"
  )
  return int(failed > 0)


def _try(copy: pathlib.Path, mutant: Mutant) -> str:
  path = copy / "prefixrl_jax" / mutant.file
  text, when = path.read_text(), path.stat().st_mtime_ns
  try:
    path.write_text(mutant.apply(text))
  except ValueError:
    return "stale"
  # Byte code is known by the second and the size of its source.
  second = next(_SECONDS)
  os.utime(path, (second, second))
  try:
    return "survived" if _pass(copy, mutant.tests) else "killed"
  finally:
    path.write_text(text)
    os.utime(path, ns=(when, when))


def _pass(copy: pathlib.Path, tests: tuple[str, ...]) -> bool:
  """Whether the tests pass; raises if they could not be run.

  Some mutants never end, which is noticed, too.
  """
  run = _PROCESSES.Process(target=_run, args=(str(copy), tests))
  run.start()
  run.join(_LONGEST_SECONDS)
  if run.exitcode is None:
    run.kill()
    run.join()
    return False
  code = run.exitcode - _OF_PYTEST
  # 1: some failed. 2: they could not even be collected, with a broken import.
  if code not in (0, 1, 2):
    raise RuntimeError(f"pytest ended with {code}: {' '.join(tests)}")
  return code == 0


def _run(copy: str, tests: tuple[str, ...]) -> None:
  """Runs the tests in a process that has imported what takes seconds."""
  null = os.open(os.devnull, os.O_RDWR)
  for stream in (0, 1, 2):
    os.dup2(null, stream)
  os.chdir(copy)
  os.environ["PYTHONPATH"] = copy
  sys.path[:] = [copy, *(p for p in sys.path if not _is_here(p))]
  options = ("-n", "0", "-x", "-q", "-p", "no:cacheprovider")
  code = pytest.main([*options, *(f"tests/{t}" for t in tests)])
  sys.exit(_OF_PYTEST + code)


def _is_here(path: str) -> bool:
  return pathlib.Path(path).resolve().is_relative_to(_ROOT)


if __name__ == "__main__":
  sys.exit(main())
