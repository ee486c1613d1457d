"""Other people's traces, or worked ones by rule, in place of our own."""

import collections

from etils import epath
from rich import box
from rich.table import Table

from prefixrl_jax.embedded import tasks
from prefixrl_jax.ledger import Ledger
from prefixrl_jax.problems.streams import problem_text
from prefixrl_jax.rewards.verifiers import VERIFIERS
from prefixrl_jax.run.inputs import verifier_name
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.storage import metrics, trace_store
from prefixrl_jax.storage.artifacts import Artifact
from prefixrl_jax.storage.files import digest, write_json
from prefixrl_jax.storage.rows import find_files
from prefixrl_jax.traces.foreign import read_foreign
from prefixrl_jax.traces.imports import (
  KEPT,
  Imported,
  ImportSettings,
  import_traces,
)
from prefixrl_jax.traces.rules import RULES, write_by_rule
from prefixrl_jax.types import UserError


def run(work: Workspace) -> None:
  """Takes over other people's traces, if there is a file of them.

  It comes before screening, so that a file of no use is known at once, and
  takes traces of all training problems; `upstream.traces` has the hard
  ones.
  """
  if not work.config.traces.file:
    return
  for artifact, seed in work.data_to_make("import"):
    _import(work, artifact, seed)


def _import(work: Workspace, artifact: Artifact, seed: int) -> None:
  c = work.config
  problems = [p for p in work.problems(seed) if p.split == "train"]
  instruction = "" if c.problems.task in tasks.TASKS else c.problems.instruction
  fields = dict(c.traces)
  file = fields.pop("file")
  files: list[epath.Path] = []
  if file.startswith(RULES):
    rows = write_by_rule(file.removeprefix(RULES), c.problems, problems)
  else:
    files = find_files(file, "config.traces.file")
    rows = read_foreign(files, **fields)
  # Read first: one that is gone stops before anything else is.
  digests = {str(file): digest(file) for file in files}
  session = work.session  # all that can be refused is, here
  work.begin(artifact)
  by_id = not files or bool(c.traces.id_field)
  settings = ImportSettings(
    verifier=session.verifier,
    tokenizer=session.tokenizer,
    has_answer=VERIFIERS[verifier_name(c)].has_answer,
    max_completion_length=c.rollouts.max_completion_length,
    traces_per_problem=c.collect.traces_per_problem,
    text_of=None if by_id else lambda p: problem_text(p, instruction),
    origin="imported:" if files else "rules/",
  )
  with metrics.Progress(
    f"import, seed {seed}", total=1.0, waits_for="reading …"
  ) as progress:
    imported = import_traces(
      rows,
      problems,
      settings,
      on_progress=lambda share, counts: progress.update(
        share, kept=str(counts[KEPT]), read=str(sum(counts.values()))
      ),
    )
  _show_import(work, imported, seed)
  if not imported.traces:
    counts = ", ".join(f"{k} {n}" for k, n in imported.counts.items() if n)
    raise UserError(
      f"{c.traces.file} has no trace that can be used for any of"
      f" {len(problems)} training problems (seed {seed}):"
      f" {counts or 'it has no rows'}."
    )
  trace_store.write_traces(
    artifact.directory / "traces.parquet", imported.traces
  )
  write_json(artifact.directory / "disagreements.json", imported.disagreements)
  artifact.finish(
    {
      "ledger": Ledger(work.session.model).to_dict(),  # it cost us nothing
      "files": digests,
      "traces": imported.counts,
      "problems": [
        len({t.problem_id for t in imported.traces}),
        len(problems),
      ],
      "policies": collections.Counter(t.policy for t in imported.traces),
      "agreement": imported.agreement,
    },
    ["traces.parquet", "disagreements.json"],
  )


def _show_import(work: Workspace, imported: Imported, seed: int) -> None:
  """Prints what has become of the traces."""
  table = Table(box=box.SIMPLE_HEAD)
  table.add_column(f"import, seed {seed}")
  table.add_column("traces", justify="right")
  for counts in (imported.counts, imported.agreement):
    for name, count in counts.items():
      if count:
        table.add_row(name, str(count))
    table.add_section()
  work.console.print(table)
