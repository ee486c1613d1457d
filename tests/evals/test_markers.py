"""Markers of a strategy, by hand."""

import dataclasses

import numpy as np
import pytest
import tiny_run

from prefixrl_jax.configs import countdown, demo, math
from prefixrl_jax.embedded import countdown_steps
from prefixrl_jax.evals.markers import marker_of, marks_of
from prefixrl_jax.run import provenance
from prefixrl_jax.settings.validation import validate
from prefixrl_jax.types import Completion, UserError

_PHASE = {f.name for f in dataclasses.fields(countdown_steps.Phase)}


def _marked(config, pattern):
  config.evals.marker = pattern
  validate(config)
  return marker_of(config)


def test_checksum_has_its_share_of_worked_blocks():
  marker = _marked(demo.get_config(), "")
  assert marker.label == "share of worked blocks"
  # What a prefix has begun is not the completion's own.
  assert marker.measure("3=1b1:15=0c=1;") == 0.5
  assert marker.measure("") == 0


def test_countdown_has_its_share_of_steps_that_are_no_sums():
  marker = _marked(countdown.get_config(), "")
  assert marker.label == "share of steps that are no sums"
  text = "8,-2,=6,:3,7,6,.7,+3,=10,:6,10,.10,*6,=60,;"
  assert marker.measure(text) == pytest.approx(2 / 3)
  assert marker.measure("7,+3,=10,;") == 0
  assert marker.measure(";") == 0


def test_hasty_work_has_less_of_it_than_solutions():
  measure = marker_of(countdown.get_config()).measure
  [phase] = countdown.get_config().pretrain.phases
  hasty = {k: v for k, v in dict(phase).items() if k in _PHASE}
  hasty |= {"lesson_share": 0.0, "solved_share": 0.0}
  mean = lambda phase: np.mean(
    [
      measure(countdown_steps.make_document(rng, phase)[1])
      for rng in map(np.random.default_rng, range(100))
    ]
  )
  worked = mean(countdown_steps.Phase(**hasty | {"lesson_share": 1.0}))
  assert worked > 2 * mean(countdown_steps.Phase(**hasty))


def test_text_tasks_have_none_of_their_own():
  assert _marked(math.get_config(), "") is None


@pytest.mark.parametrize("made", [demo, math])
def test_a_regular_expression_counts_completions(made):
  marker = _marked(made.get_config(), r"(?i)\bwait\b|=2b=1")
  assert marker.label == r"share of completions with (?i)\bwait\b|=2b=1"
  texts = ["Wait, no. Wait!", "waiting", "a=2b=1c=0;", ""]
  assert [marker.measure(text) for text in texts] == [1, 0, 1, 0]


def test_marks_are_of_each_completion_of_each_group():
  texts = [["a=2b1:15=0;", "a=1;"], ["a4:13=1;", ";"]]
  groups = [
    [
      Completion(np.array(tiny_run.TOKENIZER.encode(text)), np.zeros(0), False)
      for text in of_group
    ]
    for of_group in texts
  ]
  marker = marker_of(demo.get_config())
  marks = marks_of(marker, tiny_run.TOKENIZER, groups)
  np.testing.assert_array_equal(marks, [[0.5, 0], [1, 0]])


@pytest.mark.parametrize("pattern", ["(", "*", "a{2,1}", r"\q", "(?P<n>a"])
def test_what_is_no_regular_expression_is_refused(pattern):
  with pytest.raises(UserError, match=r"evals\.marker = .*regular exp") as e:
    _marked(math.get_config(), pattern)
  assert "\n" not in str(e.value)


def test_only_training_depends_on_it():
  """And goes on where there was no such field yet."""
  config = demo.get_config()
  of = lambda stage: provenance.settings(config, stage, "rl")
  older = {k: v for k, v in of("train").items() if k != "evals.marker"}
  assert provenance.as_today(older, of("train")) == of("train")
  config.evals.marker = "x"
  assert of("train")["evals.marker"] == "x"
  assert provenance.as_today(older, of("train"))["evals.marker"] == ""
  assert "evals.marker" not in provenance.settings(config, "evaluate")
