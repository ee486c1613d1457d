"""A run's problems: splits, copies, levels, and what is refused."""

import re

import pytest

from prefixrl_jax.problems.loading import (
  find_verifier,
  load_parts,
  load_problems,
)
from prefixrl_jax.problems.streams import (
  SHOWN,
  TOO_LONG,
  Limit,
  problem_text,
)
from prefixrl_jax.types import UserError


def _row(text, answer="1", **fields):
  return {"problem": text, "answer": answer, **fields}


def _rows(*texts):
  return [_row(text) for text in texts]


def _texts(part):
  return [p.prompt.removesuffix(" Go.") for p in part.problems]


# -- rows whose fields the config names ----------------------------------------


def test_reads_fields_ids_and_answers(section, lines):
  file = lines(
    "p.jsonl",
    {"q": "1+1?", "a": "so #### 2", "key": "x"},
    "",
    {"q": "1+2?", "a": "#### 3", "key": 7},
  )
  named = dict(problem_field="q", answer_field="a")
  config = section(
    "jsonl",
    file=file,
    answer_pattern="#### (.*)",
    id_field="key",
    num_train=1,
    **named,
  )
  assert [
    (p.id, p.prompt, p.answer, p.index, p.split)
    for p in load_problems(config, seed=0)
  ] == [
    ("x", "1+1? Go.", "2", 0, "train"),
    ("7", "1+2? Go.", "3", 2, "heldout"),
  ]
  config = section(
    "jsonl", file=file, start=1, num_train=1, num_heldout=0, **named
  )
  (only,) = load_problems(config, seed=0)
  assert (only.id, only.answer, only.source) == ("p.jsonl/2", "#### 3", file)


def test_splits_in_order_and_adds_the_instruction(section, lines):
  file = lines("p.jsonl", *_rows("p0", "p1", "p2", "p3"))
  assert [
    (p.prompt, p.split)
    for p in load_problems(section("jsonl", file=file), seed=0)
  ] == [("p0 Go.", "train"), ("p1 Go.", "train"), ("p2 Go.", "heldout")]


# -- copies --------------------------------------------------------------------


def test_copies_are_dropped_and_counted(section, lines):
  file = lines("p.jsonl", *_rows("a b", "A  $b$.", "c", "a, b", "d"))
  train, heldout = load_parts(section("jsonl", file=file), seed=0)
  assert _texts(train) == ["a b", "c"]
  assert train.dropped == {"repeated": 1}
  assert _texts(heldout) == ["d"]
  assert heldout.dropped == {"repeated": 1}


def test_nothing_of_the_heldout_file_is_trained_on(section, lines):
  config = section(
    "jsonl",
    file=lines("train.jsonl", *_rows("x", "y", "z")),
    heldout__file=lines("test.jsonl", *_rows("Y!")),
  )
  train, heldout = load_parts(config, seed=0)
  assert _texts(train) == ["x", "z"]
  assert train.dropped == {"in an evaluation set": 1}
  assert _texts(heldout) == ["Y!"]
  indices = [p.index for part in (train, heldout) for p in part.problems]
  assert len(set(indices)) == 3
  assert max(indices) < 2**31


def test_nothing_of_an_excluded_set_is_trained_on(section, lines):
  one = lines("one.jsonl", *_rows("x"))
  other = lines("two.jsonl", {"question": "z?", "answer": "#### 2"})
  config = section(
    "jsonl",
    file=lines("p.jsonl", *_rows("x", "y", "Z", "u", "v")),
    exclude=f"math500={one}, gsm8k={other}",
  )
  train, heldout = load_parts(config, seed=0)
  assert _texts(train) == ["y", "u"]
  assert train.dropped == {"in an evaluation set": 2}
  assert _texts(heldout) == ["v"]
  config.exclude = "countdown"
  with pytest.raises(UserError, match="countdown is drawn by rule"):
    load_parts(config, seed=0)


# -- levels and splits ---------------------------------------------------------


@pytest.mark.parametrize(
  ("level", "texts"),
  [("5", ["c"]), ("2-4.5", ["b", "d"]), ("", ["a", "b", "c", "d"])],
)
def test_levels_of_math(section, lines, level, texts):
  file = lines(
    "p.jsonl",
    _row("a", level="Level ?"),
    _row("b", level="Level 2"),
    _row("c", level=5),
    _row("d", level=4.5),
  )
  config = section(
    "math500", file=file, level=level, num_train=len(texts), num_heldout=0
  )
  train, _ = load_parts(config, seed=0)
  assert _texts(train) == texts


def test_programs_with_all_tests_in_the_statement_are_left_out(section, lines):
  row = lambda i, *more: {
    "problem": f"Double it.\nInput\n{i}\nOutput\n{2 * i}",
    "tests": {
      "inputs": [str(n) for n in (i, *more)],
      "outputs": [str(2 * n) for n in (i, *more)],
    },
  }
  file = lines("c.jsonl", row(11), row(12, 40), row(13), row(14, 50))
  config = section("code_contests", file=file, num_train=2, num_heldout=0)
  train, _ = load_parts(config, seed=0)
  assert [len(p.metadata["tests"]) for p in train.problems] == [2, 2]
  assert train.dropped == {SHOWN: 2}
  config.shown_tests = "keep"
  train, _ = load_parts(config, seed=0)
  assert [len(p.metadata["tests"]) for p in train.problems] == [1, 2]
  assert train.dropped == {}
  config.update(shown_tests="drop", num_train=3)
  with pytest.raises(UserError, match=r"there are 2\. Left out: 2 with all"):
    load_parts(config, seed=0)


def test_prompts_that_are_too_long_make_room_for_others(section, lines):
  file = lines("p.jsonl", *_rows("a", "a b c", "d", "e f g h", "i", "j"))
  config = section("jsonl", file=file, num_train=2, num_heldout=1)
  exceeded = lambda prompts: [len(p.split()) > 3 for p in prompts]  # " Go." too
  limit = Limit(exceeded, drops=True)
  train, heldout = load_parts(config, seed=0, limit=limit)
  assert train.too_long == heldout.too_long == []
  assert (_texts(train), _texts(heldout)) == (["a", "d"], ["i"])
  assert (train.dropped, heldout.dropped) == ({TOO_LONG: 1}, {TOO_LONG: 1})
  config.num_heldout = 3
  with pytest.raises(UserError, match=r"there are 4\. Left out: 2 too long"):
    load_parts(config, seed=0, limit=limit)
  noted, _ = load_parts(
    section("jsonl", file=file, num_train=4, num_heldout=0),
    seed=0,
    limit=limit._replace(drops=False),
  )
  assert noted.too_long == ["p.jsonl/1", "p.jsonl/3"]
  assert len(noted.problems) == 4


def test_levels_of_apps_are_words(section, lines):
  row = {"input_output": '{"inputs": ["1"], "outputs": ["1"]}'}
  file = lines(
    "p.jsonl",
    row | {"question": "a", "difficulty": "introductory"},
    row | {"question": "b", "difficulty": "competition"},
  )
  config = section(
    "apps", file=file, level="competition", num_train=1, num_heldout=0
  )
  train, _ = load_parts(config, seed=0)
  assert [p.metadata["text"] for p in train.problems] == ["b"]
  assert train.dropped == {"of another level or split": 1}
  assert problem_text(train.problems[0], " Go.") == "b"


def test_a_file_with_all_splits_is_taken_apart(section, lines):
  row = lambda i: {
    "task_id": i,
    "text": f"t{i}",
    "test_list": ["assert f(1) == 1"],
  }
  file = lines("mbpp.jsonl", *map(row, (5, 11, 510, 601, 974)))
  train, heldout = load_parts(section("mbpp", file=file), seed=0)
  assert [p.metadata["text"] for p in train.problems] == ["t601", "t974"]
  assert [p.metadata["text"] for p in heldout.problems] == ["t11"]


def test_games_of_24_are_held_out_by_rank(section, lines):
  numbers = [[4, 6, 8, 10], [1, 1, 4, 6], [3, 3, 8, 8], [1, 5, 5, 5]]
  file = lines(
    "g.jsonl",
    *(
      {"numbers": n, "target": 24, "rank": r}
      for n, r in zip(numbers, (900, 901, 1, 2))
    ),
  )
  config = section(
    "game24", file=file, level="1-100", heldout__level="901-1000"
  )
  train, heldout = load_parts(config, seed=0)
  assert [p.metadata["numbers"] for p in train.problems] == numbers[2:]
  assert [p.metadata["numbers"] for p in heldout.problems] == [numbers[1]]


# -- what is drawn -------------------------------------------------------------


@pytest.mark.parametrize(
  ("task", "level", "verifier"),
  [("countdown", "3", "countdown"), ("parities", "", "math")],
)
def test_drawn_problems_repeat_and_never_twice(section, task, level, verifier):
  config = section(task, level=level, num_train=20, num_heldout=10)
  problems = load_problems(config, seed=1)
  assert problems == load_problems(config, seed=1)
  assert problems != load_problems(config, seed=2)
  assert len({p.prompt for p in problems}) == 30
  assert [p.split for p in problems] == ["train"] * 20 + ["heldout"] * 10
  assert find_verifier(config) == verifier


def test_other_levels_can_be_held_out(section):
  config = section("countdown", level="2", heldout__level="4")
  train, heldout = load_parts(config, seed=0)
  assert {len(p.metadata["numbers"]) for p in train.problems} == {2}
  assert {len(p.metadata["numbers"]) for p in heldout.problems} == {4}


def test_a_set_that_is_too_small_is_an_error(section):
  config = section("countdown", level="2", max_number=2, num_train=50)
  with pytest.raises(
    UserError, match=r"asks for 51 .*there are \d+\..* repeated"
  ):
    load_parts(config, seed=0)


# -- what is refused -----------------------------------------------------------


def test_rows_without_an_answer_are_skipped_and_counted(section, lines):
  rows = [_row("a"), _row("b", None), {"problem": "c"}, _row("d"), _row("e")]
  file = lines("p.jsonl", *rows)
  train, heldout = load_parts(section("jsonl", file=file), seed=0)
  assert _texts(train) == ["a", "d"]
  assert train.skipped == {"no answer": 2}
  assert _texts(heldout) == ["e"]


@pytest.mark.parametrize(
  ("task", "fields", "rows", "message"),
  [
    ("chess", {}, [], "'chess' is none of jsonl, tfds, checksum, "),
    (
      "jsonl",
      {},
      [{"question": "q", "reply": "r"}],
      r"line 1: has the fields question, reply; none is the problem of task"
      r" 'jsonl' \(looked for: problem\)",
    ),
    (
      "folio",
      {},
      [{"problem": "q", "answer": "1"}],
      r"has the fields problem, answer; none is the premises of task 'folio'",
    ),
    (
      "math500",
      {},
      [_row("a", ""), _row("b", None)],
      r"no row is a problem of task 'math500': 2 no answer.*the fields"
      r" problem, answer",
    ),
    (
      "jsonl",
      {"answer_pattern": "#### (.*)"},
      [_row("a", "2")],
      r"1 answer does not match config\.problems\.answer_pattern",
    ),
    (
      "jsonl",
      {"id_field": "id"},
      [_row("a", id="k"), _row("b", id="k")],
      r"line 2: id 'k' was already used by .*line 1",
    ),
    (
      "jsonl",
      {},
      [_row("a"), _row("b", None)],
      r"asks for 3 problems .* there are 1\. Left out: 1 no answer",
    ),
    ("jsonl", {}, ['{"problem": '], r"p\.jsonl, line 1: not JSON"),
    ("jsonl", {}, [], r"there are 0\."),
    ("gsm8k", {"level": "5"}, [_row("a")], r"gsm8k has no levels"),
    ("aime2024", {}, [_row("a")], r"for evaluation only.*heldout\.task"),
    ("jsonl", {"file": ""}, [], r"config\.problems\.file is empty"),
    ("jsonl", {"file": "none.jsonl"}, [], r"problems\.file: there is no file"),
    (
      "jsonl",
      {"heldout.file": "none.jsonl"},
      [_row("a")],
      r"problems\.heldout\.file: there is no file none\.jsonl",
    ),
    ("prontoqa", {"file": ""}, [], r"prontoqa is on no hub.*problems\.file"),
  ],
)
def test_says_what_is_wrong(section, lines, task, fields, rows, message):
  config = section(task, **{"file": lines("p.jsonl", *rows)} | fields)
  with pytest.raises(UserError) as e:
    load_parts(config, seed=0)
  assert re.search(message, str(e.value)), e.value


def test_evaluation_sets_can_be_held_out(section, lines):
  config = section(
    "jsonl",
    file=lines("p.jsonl", *_rows("a", "b")),
    heldout__task="aime2025",
    heldout__file=lines("aime.jsonl", {"problem": "c", "answer": 70}),
  )
  _, heldout = load_parts(config, seed=0)
  assert [(p.answer, p.split) for p in heldout.problems] == [("70", "heldout")]
  assert (heldout.task, heldout.license) == ("aime2025", "CC-BY-NC-SA-4.0")
