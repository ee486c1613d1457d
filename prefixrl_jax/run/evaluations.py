"""Evaluations of one run side by side: other settings never replace a result.

The first one on the run's own problems has the run's folder
(`evaluate/ARM/seed_N`), as the only one has; others have folders within it,
`NAME-KEY`, of the set that is evaluated on (`problems`: the run's own) and a
digest of their settings.
"""

from collections.abc import Iterator

from prefixrl_jax.storage.artifacts import Artifact

OWN = "problems"  # no set has this name


def place(home: Artifact, of_set: str) -> Artifact:
  """Returns an evaluation where it is, or where it will be.

  Args:
    home: it, in the run's folder.
    of_set: the problems that are evaluated on; empty: the run's own.
  """
  name = of_set or OWN
  within = sorted(home.directory.glob(f"{name}-*"))
  there = [] if of_set else [home]
  for found in (*there, *(home.within(folder.name) for folder in within)):
    if found.exists and found.fits:
      return found
  if not of_set and not home.exists:
    return home
  return home.within(f"{name}-{home.key}")


def finished(home: Artifact) -> Iterator[Artifact]:
  """Yields all that are complete, of the policy as it is now.

  Args:
    home: an evaluation of any settings, in the run's folder.
  """
  within = sorted(home.directory.glob("*-*"))
  for found in (home, *(home.within(folder.name) for folder in within)):
    if found.exists and found.complete:
      yield found
