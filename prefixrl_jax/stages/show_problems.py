"""What would be trained on, shown."""

from prefixrl_jax.problems.showing import show_parts, spread_out
from prefixrl_jax.rewards.verifiers import unreadable
from prefixrl_jax.run.inputs import Inputs, verifier_name
from prefixrl_jax.storage import metrics

# Problems whose answers are tried, and prompts whose tokens are counted, so
# that a big file is shown soon.
_LOOKED_AT = 2000


def run(work: Inputs) -> None:
  """Prints what would be trained on; loads no weights, leaves nothing."""
  c = work.config
  work.try_reward()
  for seed in work.data_seeds:
    parts = work.problem_parts(seed)
    problems = [p for part in parts for p in part.problems]
    sample = spread_out(problems, _LOOKED_AT)
    with metrics.busy(f"trying the answers of {len(sample):,} problems …"):
      bad = unreadable(verifier_name(c), c.rewards, sample)
    show_parts(
      work.console,
      parts,
      work.tokenizer,
      seed=seed,
      max_prompt_length=c.rollouts.max_prompt_length,
      most=_LOOKED_AT,
      unreadable=bad,
      num_judged=len(sample),
    )
