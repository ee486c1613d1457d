"""Every trace cut into prefixes."""

from collections.abc import Sequence

from prefixrl_jax.prefixes import cuts as cutting
from prefixrl_jax.prefixes.cuts import Cuts
from prefixrl_jax.rewards.judging import hold_answer
from prefixrl_jax.run import upstream
from prefixrl_jax.run.inputs import Inputs
from prefixrl_jax.run.session import Session
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.storage import trace_store
from prefixrl_jax.types import Problem, Trace, UserError


def run(work: Workspace) -> None:
  """Cuts every trace into prefixes that do not hold the answer.

  Raises:
    UserError: no trace is of a hard problem, or no prefix is left.
  """
  for artifact, seed in work.data_to_make("cut"):
    traces = upstream.traces(work, seed)
    if not traces:
      raise UserError(
        f"{work.config.traces.file} has no trace of a hard problem (seed"
        f" {seed}): screen less strictly (config.screen.max_correct,"
        " num_samples) or bring other traces."
      )
    cuts = cut(work, work.problems(seed), traces, seed=seed)
    work.console.print(
      f"cut, seed {seed}: {len(cuts.prefixed)} prefixes of {len(traces)}"
      f" traces{_account(cuts)}"
    )
    if not cuts.prefixed:
      raise UserError(
        f"no prefix of a trace can be used (seed {seed}): all of them"
        " already contain the answer, or the traces are too short. Cut earlier"
        " (config.prefixes.low, high) or bring other traces."
      )
    work.begin(artifact)
    trace_store.write_prefixed_problems(
      artifact.directory / "prefixed.parquet", cuts.prefixed
    )
    artifact.finish(
      {
        "prefixed": len(cuts.prefixed),
        "cut_earlier": cuts.cut_earlier,
        "left_out": cuts.left_out,
        "too_short": cuts.too_short,
      },
      ["prefixed.parquet"],
    )


def cut(
  task: Inputs | Session,
  problems: Sequence[Problem],
  traces: Sequence[Trace],
  *,
  seed: int,
) -> Cuts:
  """Cuts traces as config.prefixes says; a prefix does not hold the answer.

  Args:
    task: its config, tokenizer and verifier.
    problems: those of the traces, at least.
    traces: correct ones.
    seed: seed for the places.
  """
  by_id = {p.id: p for p in problems}
  return cutting.cut(
    traces,
    {p.id: p.index for p in problems},
    seed=seed,
    hold_answer=lambda ids, prefixes: hold_answer(
      task.verifier, task.tokenizer, [by_id[i] for i in ids], prefixes
    ),
    **task.config.prefixes,
  )


def _account(cuts: Cuts) -> str:
  said = []
  if held := cuts.cut_earlier + cuts.left_out:
    said.append(
      f"{held} already contained the answer: {cuts.cut_earlier} cut earlier,"
      f" {cuts.left_out} left out"
    )
  if cuts.too_short:
    said.append(
      f"{cuts.too_short} fewer, since short traces have too few places to cut"
    )
  return "".join(f"; {s}" for s in said)
