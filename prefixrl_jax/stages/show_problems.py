"""What would be trained on, shown."""

from prefixrl_jax.problems.showing import show_parts
from prefixrl_jax.rewards.verifiers import unreadable
from prefixrl_jax.session import verifier_name
from prefixrl_jax.workspace import Workspace


def run(work: Workspace) -> None:
  """Prints what would be trained on; loads no weights, leaves nothing."""
  c = work.config
  for seed in work.data_seeds:
    parts = work.problem_parts(seed)
    show_parts(
      work.console,
      parts,
      work.tokenizer,
      seed=seed,
      max_prompt_length=c.rollouts.max_prompt_length,
      unreadable=unreadable(
        verifier_name(c), c.rewards, [p for x in parts for p in x.problems]
      ),
    )
