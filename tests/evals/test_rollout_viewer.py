"""The viewer in a browser, opened from the disk: filter, open, colour."""

import dataclasses
import json

import browser
import kept_rollouts
import pytest
from etils import epath

from prefixrl_jax.evals.rollout_pages import write_viewer

pytestmark = pytest.mark.skipif(
  browser.find_browser() is None,
  reason="there is no Chromium (apt-get install chromium)",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
  folder = tmp_path_factory.mktemp("rollouts")
  runs = [
    kept_rollouts.run(folder / "a", num_problems=60),
    kept_rollouts.run(
      folder / "b", arm="rl", seed=1, num_problems=2, rescored=False
    ),
  ]
  problems = kept_rollouts.problems(60)
  problems[2] = dataclasses.replace(problems[2], prompt=kept_rollouts.HOSTILE)
  write_viewer(
    epath.Path(folder / "viewer"), runs, {0: problems}, kept_rollouts.ANY_PROMPT
  )
  return folder / "viewer/index.html"


@pytest.fixture
def opened(chromium, page):
  """(state) -> the browser, with the page in that state."""

  def opened(state=""):
    chromium.open(page, state)
    chromium.wait("document.querySelectorAll('#rollouts li').length > 0")
    return chromium

  yield opened
  assert chromium.errors == []


def _texts(chromium, selector):
  return chromium.run(
    f"[...document.querySelectorAll({json.dumps(selector)})]"
    ".map((e) => e.textContent)"
  )


def _heading(chromium, section):
  [text] = _texts(chromium, f"#{section}-title")
  return text


def _click(chromium, selector):
  chromium.run(f"document.querySelector({json.dumps(selector)}).click()")


def _tokens(chromium, style):
  return chromium.run(
    "[...document.querySelectorAll('#tokens span')]"
    f".map((e) => getComputedStyle(e).{style})"
  )


def test_lists_problems_and_loads_no_page_of_rollouts_yet(opened):
  chromium = opened()
  assert "992 rollouts of 992 kept ones" in _texts(chromium, "#summary")[0]
  assert _heading(chromium, "problems") == (
    "60 problems, 1 solved without prefix"
  )
  first, second, *_ = _texts(chromium, "#problems li")
  assert "p/0" in first
  assert "solved at step 3" in first
  assert "after a prefix: step 1, evaluated: 0/16 → 12/16" in first
  assert "never solved" in second
  assert not [
    src
    for src in chromium.run("[...document.scripts].map((s) => s.src)")
    if "page_" in src
  ]


def test_filters_by_arm_seed_step_prefix_and_outcome(opened):
  chromium = opened()
  for name, value, left in (
    ("arm", "prefixrl", 960),  # 4 steps of 60 problems, 2 kinds, 2 lanes
    ("prefix", "with", 480),
    ("from", "2", 360),
    ("to", "2", 120),
    ("outcome", "wrong", 2),  # those of the last problem
    ("prefix", "without", 120),  # all of step 2
    ("arm", "rl", 4),  # has two problems
    ("seed", "0", 0),
    ("seed", "1", 4),
  ):
    chromium.choose(name, value)
    assert _heading(chromium, "rollouts") == f"{left} rollouts", (name, value)
  _click(chromium, "button[type=reset]")
  chromium.wait(
    "document.querySelector('#rollouts-title').textContent == '992 rollouts'"
  )
  chromium.choose("find", "P/59")
  assert _heading(chromium, "problems").startswith("1 problem,")
  assert _heading(chromium, "rollouts") == "16 rollouts"


def test_shows_when_what_was_solved(opened):
  chromium = opened()
  for show, count in (("flipped", 1), ("prefixed", 58), ("never", 1)):
    chromium.choose("show", show)
    assert _heading(chromium, "problems").startswith(f"{count} problem")
  chromium.choose("show", "")
  chromium.choose("sort", "last")
  assert "p/0" in _texts(chromium, "#problems li")[0]
  assert len(_texts(chromium, "#problems li")) == 50
  _click(chromium, "#problems .pager button:last-child")
  assert len(_texts(chromium, "#problems li")) == 10
  _click(chromium, "#problems li:last-child button")
  assert _heading(chromium, "rollouts") == "16 rollouts"


def test_opens_a_rollout_with_its_prefix_apart(opened):
  chromium = opened("arm=prefixrl&prefix=with&problem=0&order=newest")
  _click(chromium, "#rollouts li:nth-child(2) button")
  chromium.wait("document.querySelector('#tokens') !== null")
  assert _texts(chromium, "#content .prompt") == ["a"]
  assert _texts(chromium, "#content .prefix") == ["a=1"]
  assert _texts(chromium, "#tokens span") == ["a", "b", "b", "b", ";"]
  assert _texts(chromium, ".lanes button") == ["✓ 1", "✓ 2"]
  [said] = _texts(chromium, "#content > p")
  assert "prefixrl, seed 0, step 4: reward 1, 5 tokens" in said
  # The address has it all: another visit finds the same.
  state = chromium.run("location.hash.slice(1)")
  again = opened(state)
  again.wait("document.querySelector('#tokens') !== null")
  assert _texts(again, "#content .prefix") == ["a=1"]
  assert _texts(again, "#rollouts [aria-current=true]") != []


def test_colours_tokens_in_three_ways(opened):
  chromium = opened("arm=prefixrl&problem=0")
  _click(chromium, "#rollouts li:nth-child(2) button")  # lane 1 has advantages
  chromium.wait("document.querySelector('#tokens') !== null")
  alpha = lambda c: (
    0 if c == "rgba(0, 0, 0, 0)" else float(c.split("/")[1][:-1])
  )
  unlikely = [alpha(c) for c in _tokens(chromium, "backgroundColor")]
  logprobs = chromium.run("shown.logprobs")
  order = sorted(range(5), key=lambda i: unlikely[i])
  assert order == sorted(range(5), key=lambda i: -logprobs[i])
  chromium.press("3")
  assert _tokens(chromium, "borderBottomStyle") == [
    *["dashed"] * 2,
    *["solid"] * 3,
  ]
  colours = _tokens(chromium, "backgroundColor")
  assert len(set(colours)) == 5  # -1, -.5, 0, .5, 1
  assert "advantage: -1.00 or less" in _texts(chromium, "#legend")[0]
  chromium.press("4")
  assert len(set(_tokens(chromium, "backgroundColor"))) == 1  # all by +.5
  assert _tokens(chromium, "borderBottomStyle") == ["solid"] * 5
  chromium.press("1")
  assert {alpha(c) for c in _tokens(chromium, "backgroundColor")} == {0}


def test_says_why_there_is_no_colour(opened):
  chromium = opened("arm=rl&colour=moved")
  _click(chromium, "#rollouts li:nth-child(1) button")
  chromium.wait("document.querySelector('#tokens') !== null")
  assert "not rescored" in _texts(chromium, "#legend")[0]
  chromium.choose("colour", "none")
  chromium.press("3")
  assert "was not learned from" in _texts(chromium, "#legend")[0]


def test_keys_go_through_rollouts_and_tokens(opened):
  chromium = opened("arm=rl")
  chromium.press("j")
  chromium.press("j")
  chromium.wait(
    "document.querySelector('#tokens') !== null && shown.place === found[1]"
  )
  chromium.press("k")
  chromium.wait("shown.place === found[0]")
  chromium.run("document.querySelector('#tokens').focus()")
  chromium.press("ArrowRight")
  chromium.press("ArrowRight")
  [said] = _texts(chromium, "#token")
  assert said.startswith('token 2: "b", log-probability -')
  chromium.press("ArrowLeft")
  assert _texts(chromium, "#token")[0].startswith('token 1: "a"')
  chromium.press("/")
  assert chromium.run("document.activeElement.name") == "find"
  chromium.press("j")  # is a letter there
  assert chromium.run("document.activeElement.value") == "j"


def test_a_text_does_nothing_and_is_all_to_be_seen(opened):
  chromium = opened("problem=2&arm=prefixrl")
  _click(chromium, "#rollouts li button")
  chromium.wait("document.querySelector('#tokens') !== null")
  [prompt] = _texts(chromium, "#content .prompt")
  assert "</script><script>window.hit = 1</script><img src=x" in prompt
  for code in ("2028", "202E", "200B", "0000", "001B", "007F"):
    assert f"‹U+{code}›" in prompt
  assert "\U0001f600" in prompt
  assert chromium.run("window.hit === undefined")
  assert chromium.run("document.querySelectorAll('img').length") == 0


def test_a_page_that_is_gone_is_said(opened, page):
  hidden = page.parent / "data/page_0.js"
  moved = hidden.rename(hidden.with_suffix(".away"))
  try:
    chromium = opened("")
    _click(chromium, "#rollouts li button")
    chromium.wait("document.querySelector('#content .wrong') !== null")
    said = _texts(chromium, "#content .wrong")[0]
    assert "data/page_0.js is missing" in said
  finally:
    moved.rename(hidden)
    chromium.errors.clear()
  _click(chromium, "#rollouts li button")  # it is looked for again
  chromium.wait("document.querySelector('#tokens') !== null")
