"""Breaks the core in one place at a time; the tests must notice each time.

  python tests/mutants.py                 all of them, 20 minutes on a core
  python tests/mutants.py --only=ledger   those whose file or name has it

Prints a line a mutant, and ends with 1 if one survived, or if one is stale:
the text that it changes is not in its file (once) any more. Not part of the
tests, since it takes longer than they do; run it after changing a test of the
core. A new mutant is a row of MUTANTS.
"""

import argparse
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

_ROOT = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Mutant:
  """One fault.

  Attributes:
    file: within prefixrl_jax/.
    old: text that occurs once in it; empty: `new` is appended.
    new: in its place.
    tests: files or folders within tests/ that shall notice.
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


def _mutants(file: str, tests: str, *changes: tuple[str, str]) -> list[Mutant]:
  return [Mutant(file, *change, tuple(tests.split())) for change in changes]


MUTANTS = [
  # -- who may import whom
  *_mutants("traces/store.py", "test_architecture.py", ("", "import jax")),
  *_mutants("types.py", "test_architecture.py", ("", "import jax.numpy")),
  *_mutants(
    "evals/summary.py",
    "test_architecture.py",
    ("", "from prefixrl_jax.train import TrainData"),
    ("", "from prefixrl_jax import checkpoints"),
  ),
  *_mutants(
    "evals/evaluate.py",
    "test_architecture.py",
    ("", "from prefixrl_jax.train import TrainData"),
  ),
  # -- the learner
  *_mutants(
    "learner/advantages.py",
    "learner/test_advantages.py",
    ("n / (n - 1)", "n / n"),
    ("np.where(equal, 0.0, centred)", "centred"),
    ("rewards - rewards.mean(axis=1, keepdims=True)", "rewards"),
    ("(np.asarray(lengths) - 1)", "(0 * np.asarray(lengths))"),
    ("(np.asarray(lengths) - 1)", "np.asarray(lengths)"),
  ),
  *_mutants(
    "learner/losses.py",
    "learner/test_losses.py",
    ("return -jnp.sum", "return jnp.sum"),
    ("on & later_on, ", "on, "),
    ("jnp.expm1(log_ratio) - log_ratio", "-log_ratio"),
  ),
  *_mutants(
    "learner/optimizer.py",
    "learner/test_optimizer.py",
    ("learning_rate / max(warmup_steps, 1)", "learning_rate"),
    ("learning_rate / max(warmup_steps, 1)", "0.0"),
    ("0.1 * learning_rate", "0.0"),
    ("max(warmup_steps - 1, 0)", "warmup_steps"),
    ("weight_decay=weight_decay", "weight_decay=0.0"),
    ("if not clip_norm:", "if True:"),
  ),
  *_mutants(
    "learner/sft.py",
    "learner/test_sft.py",
    ("default_rng([seed, epoch])", "default_rng([seed, 0])"),
    ("default_rng([seed, epoch])", "default_rng([0, epoch])"),
  ),
  *_mutants(
    "learner/packing.py",
    "learner/test_packing.py learner/test_update.py",
    ("start + lane.fork - 1", "start + n - 1"),
    ("lane.fork + np.arange(k)", "n + np.arange(k)"),
    ("other.is_prefixed == tree.is_prefixed\n        and ", ""),
    ('row["fork"][here] = lane.fork', 'row["fork"][here] = n'),
  ),
  # -- prefixes
  *_mutants(
    "prefixes/cut.py",
    "prefixes/test_cut.py",
    ("min(length - 1, revealed_length(length, high))", "length - 1"),
    ("max(1, math.ceil(low * length - _ROUNDING))", "1"),
    ("if not holds:", "if True:"),
    ("if place < kept", "if place != kept"),
    ("free[t].remove(earlier)", "pass"),
    ("fraction * length + _ROUNDING", "fraction * length"),
  ),
  *_mutants(
    "prefixes/mixture.py",
    "prefixes/test_mixture.py",
    ("[self._seed, kind, epoch]", "[self._seed, kind, 0]"),
    ("[self._seed, kind, epoch]", "[self._seed, 0, epoch]"),
    ("(step + 1) * count", "step * count + 1"),
  ),
  # -- sampling
  *_mutants(
    "rollouts/decoding.py",
    "rollouts/test_sampler.py",
    ("logits = logits / temperature", "logits = logits * 1.0"),
    ("busy - jnp.sum(state.active)", "0"),
    ("(length < state.limit)", "(length <= state.limit)"),
    ("jax.vmap(jax.random.fold_in)(key, length)", "key"),
  ),
  *_mutants(
    "rollouts/sampler.py",
    "rollouts/test_sampler.py traces/test_collect.py",
    (
      "truncated=int(tokens[i, n - 1]) not in self.stop_tokens",
      "truncated=False",
    ),
    ("work[1] > self._cancelled", "work[1] >= self._cancelled"),
    ("min(above, self._cancelled.get(number, above))", "above"),
    ("self.usage.prefill_tokens += trunks.size\n", "pass\n"),
  ),
  *_mutants(
    "traces/collect.py",
    "traces/test_collect.py",
    ("sorted(found[i])[traces_per_problem - 1]", "sorted(found[i])[-1]"),
    ("if verdict.reward == 1:", "if verdict.reward >= 0:"),
    (
      "min(_BLOCK * sampler.lanes, budget - next_attempt[i])",
      "_BLOCK * sampler.lanes",
    ),
  ),
  *_mutants(
    "rewards/judging.py",
    "rewards/test_judging.py",
    ("if not c.truncated", "if True"),
    ("[*prefixes[i].tolist(), *completions", "[*completions"),
  ),
  # -- what is counted
  *_mutants(
    "ledger.py",
    "test_ledger.py",
    ("2.0 * self._num_params * tokens", "3.0 * self._num_params * tokens"),
    ("6.0 * self._num_params * tokens", "2.0 * self._num_params * tokens"),
    ("if head else 0", "if True else 0"),
    ("for p in TRAINING)", "for p in PURPOSES)"),
  ),
  *_mutants(
    "metrics.py",
    "test_metrics.py",
    ("self._seconds.get(name, 0.0) + spent", "spent"),
    ("    self._seconds = {}\n    return popped", "    return popped"),
    ("correct.all(1).mean()", "correct.any(1).mean()"),
    ("event == _COMPILE_EVENT", "True"),
  ),
  # -- what is left in the workdir
  *_mutants(
    "files.py",
    "test_files.py test_artifacts.py",
    (
      "if self.sha256 not in (None, hashlib.sha256(data).hexdigest()):",
      "if False:",
    ),
    ("if seal != digest_of(value):", "if False:"),
    ("temporary = _temporary(path)\n  try:", "temporary = path\n  try:"),
  ),
  *_mutants(
    "artifacts.py",
    "test_artifacts.py test_workdirs.py",
    ("if _limit(value) < _limit(record", "if False and _limit(record"),
    ("_limit(value) > _limit(record", "_limit(value) < _limit(record"),
    ("return value or math.inf", "return value"),
    ("remove(*self._leftovers())", "pass"),
    ("self._follows and bool(", "bool("),
  ),
  *_mutants(
    "locking.py",
    "test_locking.py",
    ("if self.host != this.host:", "if False:"),
    ("if not owner.is_gone(this):", "if False:"),
    ("and _owner(path) == this", ""),
    (
      "return _started(self.pid) != self.started",
      "return not _started(self.pid)",
    ),
  ),
  *_mutants(
    "checkpoints.py",
    "test_checkpoints.py",
    ("      self._move_aside()\n", ""),
    ("    if here != there:", "    if False:"),
    ("if is_last or isinstance(e, DamagedError):", "if True:"),
    ("      if not saved:", "      if False:"),
  ),
  # -- evaluation and report
  *_mutants(
    "evals/statistics.py",
    "evals/test_statistics.py",
    ("np.maximum(n - c - drawn, 0) / (n - drawn)", "(n - c) / n + 0 * drawn"),
    ("tail = (1 - confidence) / 2", "tail = 1 - confidence"),
    ("ddof=1", "ddof=0"),
  ),
  *_mutants(
    "evals/curves.py",
    "evals/test_summary.py",
    ("np.where(begins, cost[i], crossing)", "crossing"),
    ("e.problem_id in run.hard", "True"),
    ("and run.uses_traces", ""),
    ("means[(weights > 0) @ outside.astype(np.float64) > 0] = np.nan", "pass"),
  ),
  *_mutants(
    "evals/comparisons.py",
    "evals/test_summary.py",
    ("[0.025, 0.975]", "[0.25, 0.75]"),
    ("np.mean(np.isnan(values))", "0.0"),
    ("undefined = (target == 0)", "undefined = (target < 0)"),
    ("if first_crossing else end", "if True else end"),
  ),
  *_mutants(
    "evals/summary.py",
    "evals/test_summary.py",
    ("(start + best) / 2", "best"),
    ("if best > start else None", "if True else None"),
    ("and accuracy >= threshold", "and accuracy > threshold"),
  ),
  *_mutants(
    "evals/report.html.jinja",
    "evals/test_report.py",
    ("{% if samples %}", "{% if true %}"),
    ("{% if summary.versus %}", "{% if true %}"),
    ("{% if sample.reward == 1 %}", "{% if true %}"),
    ("{% if notes %}", "{% if false %}"),
    ("{{ of_arm | seeds(split)", "{{ [] "),
  ),
  *_mutants(
    "evals/report.py",
    "evals/test_report.py",
    ("autoescape=True", "autoescape=False"),
    ('"never" if ratio == 0 else', '"0" if ratio is None else'),
  ),
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
  failed = 0
  with tempfile.TemporaryDirectory() as scratch:
    copy = pathlib.Path(scratch) / "copy"
    shutil.copytree(
      _ROOT, copy, ignore=shutil.ignore_patterns(".*", "runs", "__pycache__")
    )
    for tests in dict.fromkeys(m.tests for m in chosen):
      if not _pass(copy, tests):
        print(f"{', '.join(tests)}: fail without any mutant", file=sys.stderr)
        return 1
    for mutant in chosen:
      started = time.monotonic()
      verdict = _try(copy, mutant)
      failed += verdict != "killed"
      seconds = time.monotonic() - started
      print(f"{verdict:8} {seconds:5.0f} s  {mutant.name}", flush=True)
  print(f"{len(chosen) - failed} of {len(chosen)} mutants killed")
  return int(failed > 0)


def _try(copy: pathlib.Path, mutant: Mutant) -> str:
  path = copy / "prefixrl_jax" / mutant.file
  text = path.read_text()
  try:
    path.write_text(mutant.apply(text))
  except ValueError:
    return "stale"
  try:
    return "survived" if _pass(copy, mutant.tests) else "killed"
  finally:
    path.write_text(text)


def _pass(copy: pathlib.Path, tests: tuple[str, ...]) -> bool:
  """Whether the tests pass; raises if they could not be run."""
  options = ("-n", "0", "-x", "-q", "-p", "no:cacheprovider")
  done = subprocess.run(
    [sys.executable, "-m", "pytest", *options, *(f"tests/{t}" for t in tests)],
    cwd=copy,
    env=dict(os.environ, PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1"),
    capture_output=True,
    text=True,
    check=False,
  )
  # 1: some failed. 2: they could not even be collected, with a broken import.
  if done.returncode not in (0, 1, 2):
    raise RuntimeError(done.stdout + done.stderr)
  return done.returncode == 0


if __name__ == "__main__":
  sys.exit(main())
