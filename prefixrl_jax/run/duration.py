"""How long a run takes at the least, added up from what its programs take.

Lengths are those that `by_hand` assumes. Counts that data decide are the
largest that the config allows: every problem is hard, and collection spends all
of its attempts.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from prefixrl_jax.distributed import sharding
from prefixrl_jax.distributed.chips import Chip
from prefixrl_jax.models.flops import num_active_params
from prefixrl_jax.rounding import ceil_div, round_up
from prefixrl_jax.run import by_hand, sizes
from prefixrl_jax.run.credit import scores_needed
from prefixrl_jax.run.session import Engine
from prefixrl_jax.settings import arms


class UnknownError(Exception):
  """A program was not compiled, or what it takes is not known."""


class Clock:
  """Adds up what programs take.

  Attributes:
    seconds: so far, by what was done.
    flops: of a device, so far, without what it recomputes.
  """

  def __init__(self, engine: Engine, programs: Iterable[Mapping[str, Any]]):
    """Starts at 0.

    Args:
      engine: of the run.
      programs: each with name, rows, of, at_least (seconds), by_hand; as in
        the summary.
    """
    self.seconds: dict[str, float] = {}
    self.flops = 0.0
    self._engine = engine
    self._programs = list(programs)

  def run(self, place: str, name: str, times: float, what: str) -> None:
    """Adds a number of runs of a program.

    Args:
      place: where in a run it is, as "rl, rollouts".
      name: of the program.
      times: that it runs.
      what: they are a part of.

    Raises:
      UnknownError: see there.
    """
    if not times:
      return
    found = [
      p for p in self._programs if p["name"] == name and place in p["of"]
    ]
    if not found or any("at_least" not in p for p in found):
      raise UnknownError(place, name)
    # A fresh start's width, and the longest trunks.
    one = max(found, key=lambda p: (p["rows"] or 0, p["at_least"]))
    self.seconds[what] = self.seconds.get(what, 0.0) + times * one["at_least"]
    work = one["by_hand"]
    self.flops += times * (work["flops"] - work["recomputed"])

  def sample(
    self, place: str, completions: float, rows: int, lanes: int, what: str = ""
  ) -> None:
    """Adds the sampling of completions, all lanes always at work.

    Args:
      place, what: see `run`; what: by kind of program unless it is given.
      completions: how many.
      rows, lanes: of the sampler.
    """
    engine = self._engine
    rows = round_up(rows, sharding.num_row_shards(engine.mesh))
    tokens = engine.config.rollouts.max_completion_length / 2
    rounds = completions / (rows * lanes)
    layers = engine.model.num_layers
    of = lambda kind: what or kind
    self.run(place, "decode", max(rounds, 1) * tokens, of("decode"))
    fills = math.ceil(rounds)
    self.run(place, "prefill a layer", fills * (layers - 1), of("prefill"))
    self.run(place, "prefill, last layer", fills, of("prefill"))

  @property
  def total(self) -> float:
    """All seconds so far."""
    return sum(self.seconds.values())


def steps(
  engine: Engine, programs: Sequence[Mapping[str, Any]], chip: Chip
) -> dict[str, dict[str, float]]:
  """Returns what a step of RL takes, arm by arm, if every program is known.

  Args:
    engine: of the run.
    programs: see `Clock`.
    chip: that they run on.
  """
  found = {}
  for arm in engine.config.run_arms:
    clock = Clock(engine, programs)
    try:
      _step(clock, engine, arm)
    except UnknownError:
      continue
    tokens = _tokens_of_step(engine.config, arm)
    found[arm] = {
      **clock.seconds,
      "step": clock.total,
      "tokens_per_second_per_chip": tokens / clock.total / engine.mesh.size,
      "mfu": clock.flops / clock.total / chip.flops,
    }
  return found


def _step(clock: Clock, engine: Engine, arm: str) -> None:
  c = engine.config
  settings = c.arms[arm]
  how = arms.learner_of(c, settings)
  updates = how.num_minibatches * how.num_epochs
  clock.run(f"{arm}, RL", "update", updates, "update")
  if lanes := arms.num_samples(c, settings):
    place, rows = f"{arm}, rollouts", c.train.rows or c.train.prompts_per_step
    clock.sample(place, c.train.prompts_per_step * lanes, rows, lanes)
    layers = engine.model.num_layers
    clock.run(place, "hand over a layer", layers, "hand-over")
    clock.run(place, "hand over the rest", 1, "hand-over")
  if scores_needed(how):
    clock.run(f"{arm}, scoring", "score", 1, "scoring")


def _tokens_of_step(config: ml_collections.ConfigDict, arm: str) -> float:
  settings = config.arms[arm]
  trees = by_hand.trees_of(config, settings, sizes.at_most(config, settings))
  return trees["scoring"].tokens


def num_steps(engine: Engine, arm: str) -> int:
  """Returns how many steps of RL the budget allows, by the paper's count.

  Args:
    engine: of the run.
    arm: its name.
  """
  c = engine.config
  samples = arms.num_samples(c, c.arms[arm]) > 0
  a_step = (
    (6.0 + 2.0 * samples)
    * num_active_params(engine.model)
    * _tokens_of_step(c, arm)
  )
  count = ceil_div(int(c.train.flops), max(int(a_step), 1))
  return min(count, c.train.max_steps or count)


def chip_hours(
  engine: Engine, programs: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
  """Returns the chip-hours of all of a run's arms and seeds, by stage.

  Args:
    engine: of the run.
    programs: see `Clock`.

  Returns:
    {stage: chip-hours}, without a stage of which a program is not known.
  """
  c = engine.config
  problems, evals = c.problems, c.evals
  train = problems.num_train
  found: dict[str, float] = {}

  def add(stage: str, do, seeds: int) -> None:
    clock = Clock(engine, programs)
    try:
      do(clock)
    except UnknownError:
      return
    hours = seeds * clock.total * engine.mesh.size / 3600
    found[stage] = found.get(stage, 0.0) + hours

  asked = lambda most: sum(
    min(count, most or count) for count in (train, problems.num_heldout)
  )
  own = lambda name, count, s: add(
    name,
    lambda clock: clock.sample(name, count, s.rows, s.lanes),
    len(c.seeds) if c.fresh_data_per_seed else 1,
  )
  own("screen", train * c.screen.num_samples, c.screen)
  if not c.traces.file:
    own("collect", train * c.collect.budget, c.collect)
  for arm in c.run_arms:
    settings = c.arms[arm]
    largest = sizes.at_most(c, settings)

    def training(clock, arm=arm, count=largest.sft_steps):
      clock.run(f"{arm}, SFT", "update", count, "SFT")
      of_step = Clock(engine, programs)
      _step(of_step, engine, arm)
      clock.seconds["RL"] = num_steps(engine, arm) * of_step.total

    def curve(clock, arm=arm):
      count = (evals.curve_points + 1) * evals.curve_samples
      count *= asked(evals.curve_problems)
      clock.sample(f"{arm}, curve", count, evals.rows, evals.lanes)

    def evaluate(clock, arm=arm):
      count = asked(evals.final_problems) * evals.num_samples
      traced = min(train, evals.final_problems or train)
      count += traced * len(evals.fractions) * evals.fraction_samples
      clock.sample(f"{arm}, evaluate", count, evals.rows, evals.lanes)

    for stage, do in zip(
      ("train", "curve", "evaluate"), (training, curve, evaluate)
    ):
      add(stage, do, len(c.seeds))
  return found
