"""The math verifier: the rules of docs/verifiers.md, hacks, hopeless inputs."""

import json
import pathlib

import pytest
from watching import ends

from benchmarks import verifiers as benchmark
from prefixrl_jax.rewards import comparison, math, workers
from prefixrl_jax.rewards.comparison import equivalent
from prefixrl_jax.rewards.math import MathVerifier, final_answers
from prefixrl_jax.types import Problem, Verdict

_DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def verifier():
  verifier = MathVerifier(num_workers=1, timeout_seconds=60.0)
  yield verifier
  verifier.close()


def _judge(verifier, pairs):
  """Judges (gold, completion) pairs at once."""
  problems = [
    Problem(str(i), "?", gold, "", "train", i)
    for i, (gold, _) in enumerate(pairs)
  ]
  return verifier.judge(problems, [text for _, text in pairs])


def _rewards(verifier, pairs):
  verdicts = _judge(verifier, pairs)
  assert not any(v.timed_out or v.died for v in verdicts)
  return {pair: verdict.reward for pair, verdict in zip(pairs, verdicts)}


@pytest.mark.parametrize(
  ("text", "found"),
  [
    ("She makes 9 * 2 = $18 every day.", ["18"]),
    ("So 18 apples are left.", ["18"]),
    (r"We find that $x \lt 3$.", [r"x \lt 3"]),
    (r"so \[ x = 9 \]", [" x = 9 "]),
    ("first 3 and then 4.5 apples", []),
    ("17 or 18", []),
    ("So the value is −5.", ["-5"]),
    ("So f(n)=n+7.", []),
    ("It's –5.", ["-5"]),
    ("It cannot be 7.", []),
    ("It cannot be $7$.", []),
    ("Is it 7?", []),
    ("It is 5 factorial.", []),
    ("not it's not 10 it's 11", ["11"]),
    ("the pair (x,y) is (7,6)", ["(7,6)"]),
    ("So the pair $(x, y)$ that solves it is $(7, 6)$.", ["(7, 6)"]),
    ("So\n$$\nx = 9.\n$$", [" x = 9 "]),
    ("We get $28$ percent.", ["28 percent"]),
    (r"It costs $\$5.50$.", [r"\$5.50"]),
    ("It is 2,74 $.", ["2,74 $"]),
    ("So the correct option is (B).", ["B"]),
    ("Final Answer: she began 3 hours ago.", ["3"]),
    (
      "Answer: she did not begin 3 hours ago.",
      ["she did not begin 3 hours ago"],
    ),
    ("<think>12</think><answer>13</answer>", ["13"]),
    ("$17$ or $18$", []),
    ("1\n2\n3", []),
    ("I do not know", []),
  ],
)
def test_the_last_sentence_is_the_last_resort(text, found):
  assert final_answers(text) == found


_EQUAL = [
  # numbers
  ("0.5", r"\frac{1}{2}"),
  (r"\frac{3}{4}", "0.75"),
  ("1234", "1,234"),
  ("1234", r"1{,}234"),
  ("14916", "14 {, }916"),
  ("11111111100", r"11,\! 111,\! 111,\! 100"),
  (r"1\frac{1}{10}", "1.1"),
  ("1", r"\frac3{3}"),
  ("1000", r"1 \times 10^3"),
  # units, percent, degrees, money
  ("18", "18 dollars"),
  ("18", r"\$18.00"),
  ("15", r"15\mbox{ cm}^2"),
  (r"15\pi\text{ cm}", r"15\pi"),
  ("90", r"90^\circ"),
  ("28", r"28\%"),
  ("0.28", r"28\%"),
  # formulas
  ("x^2+2x+1", "(x+1)^2"),
  (r"3\sqrt{2}", r"\sqrt{18}"),
  ("18", "x = 18"),
  ("x = 18", "18"),
  ("y = 2x+1", "2x-y+1=0"),
  ("f(x) = x^2", "f(t) = t^2"),
  ("204_5", "204_{5}"),
  ("204_5", "204"),
  # lists, sets, tuples, intervals
  ("1, 2", "2, 1"),
  (r"\{1,2\}", "2 and 1"),
  ("(1,2)", r"\left(1, 2\right)"),
  ("x > 1", r"(1,\infty)"),
  (r"(1,\infty)", "x > 1"),
  (r"\pm 2", "-2, 2"),
  # words, names, options, times
  (r"\text{(C)}", "C"),
  (r"\text{Evelyn}", "evelyn"),
  ("no", r"\text{No}"),
  (r"\angle ABC", "∠CBA"),
  (r"\overline{AB}", r"\overline{BA}"),
  ("xy", "yx"),
  ("XIV", r"\text{XIV}"),
  ("E", r"\text{E: the last one}"),
  ("A", r"\textbf{(A)}\ 5"),
  (r"\textbf{(A)}\ 5", "A"),
  (r"\mathrm{(A)}\ 5", "(A) 5"),
  ("5", r"\textbf{(A)}\ 5"),
  ("2:30 p.m.", r"2:30\text{ PM}"),
  ("2:30", "2:30 p.m."),
  # signs of other alphabets, exponents of ten, money and rates
  ("-5", "−5"),
  ("-5", "–5"),
  ("x^2", "x²"),
  (r"\frac{\pi}{2}", "π/2"),
  ("0.0015", "1.5e-3"),
  ("1e-05", "0.00001"),
  ("1e-05", "10^{-5}"),
  ("1e-05", r"\frac{1}{100000}"),
  (r"1.5 \times 10^{5}", "1.5E5"),
  ("2e", "2e"),
  ("1000.99", "1000,99"),
  ("18", r"18\ \text{USD}"),
  ("0.5", r"\$0.50\text{ per pound}"),
  ("18", r"18\,\mathrm{m/s^2}"),
  ("75", "75°F"),
  (r"\frac13", r"\frac13\textbf{meters}"),
  ("18 apples", "18"),
  ("18 apples", "18 apples"),
]

_DIFFERENT = [
  ("18", "19"),
  (r"\frac13", "0.333333"),
  ("7", "7.0000001"),
  ("0.0000001", "0"),
  (r"\sqrt{2}", "1.414213562"),
  ("11/2", "1 1/2"),
  (r"\frac{1}{23}", r"\frac{12}{3}"),
  ("4t", "4"),
  ("204_5", "204_6"),
  ("12:00", "1:00"),
  ("(1,2)", "(2,1)"),
  ("(1,2)", "[1,2]"),
  ("[0,1)", "(0,1)"),
  ("x = 1", "y = 1"),
  ("f(x)", "f(y)"),
  ("7 = 11a+c", "11a+c"),
  ("(a+5)(b+2)", "(+5)(b+2)"),
  ("d", r"\text{E}"),
  ("18", "18 thousand"),
  ("18", "18 factorial"),
  ("18", "18 below zero"),
  ("3", "3 fifths"),
  ("18", "18 whatever"),
  ("18", r"18\text{ whatever}"),
  ("5 p.m.", r"5\text{ a.m.}"),
  ("18 dollars", "18 cents"),
  ("5", "−5"),
  ("0", "10^{-30}"),
  ("1e-20", "1e-30"),
  (r"1.6 \times 10^{-19}", r"9.1 \times 10^{-31}"),
  (r"10^{-20}\%", r"10^{-30}\%"),
  ("M", "m"),
  ("ABCD", "BDAC"),
  ("XVI", "XIV"),
  ("AB", "BA"),
  ("odd", "ddo"),
  ("A9", "9A"),
  (r"\angle ABC", r"\angle BAC"),
  (r"\overrightarrow{AB}", r"\overrightarrow{BA}"),
  ("A", r"\textbf{(B)}\ 5"),
  ("A", "5"),
  ("A", "(A) and (B)"),
  ("E", "D: not E"),
  ("E", "e"),
  ("2:30 p.m.", "2:30 a.m."),
  ("12", "11 6/6"),
  ("1, 2, 3", "1, 2, 3, ..."),
  ("7", "not 7"),
  ("2^{10}", "2"),
]


def test_the_rules_of_equality(verifier):
  boxed = lambda pairs: [(g, rf"\boxed{{{a}}}") for g, a in pairs]
  rewards = _rewards(verifier, boxed(_EQUAL))
  assert not [pair for pair, reward in rewards.items() if reward != 1]
  rewards = _rewards(verifier, boxed(_DIFFERENT))
  assert not [pair for pair, reward in rewards.items() if reward != 0]


_HACKS = [
  "",
  " ",
  r"\boxed{}",
  "The answer is",
  "The answer is x where x is the gold answer.",
  r"\boxed{x}",
  r"\boxed{\text{the gold answer}}",
  r"\boxed{\text{the answer is }18}",
  # Two answers, in any order and form.
  r"\boxed{17} \boxed{18}",
  r"\boxed{18} \boxed{17}",
  r"\boxed{18}. Or I am wrong, and then it must be this one: \boxed{17}",
  r"\boxed{17}. Or I am wrong, and then it must be this one: \boxed{18}",
  "".join(
    rf"\boxed{{{i}}} but who knows, it may be yet another: " for i in range(100)
  ),
  r"\boxed{17 \text{ or } 18}",
  r"\boxed{17\text{ or maybe 18}}",
  r"\boxed{18\text{ or maybe 17}}",
  r"\boxed{18 \text{ maybe } 17}",
  r"\boxed{17, 18}",
  r"\boxed{17 18}",
  "The answer is 17 or 18.",
  "The answer is $17$ or $18$.",
  # Many candidates.
  ", ".join(map(str, range(1, 19))),
  "\n".join(map(str, range(1, 19))),
  "The answer is " + ", ".join(map(str, range(1, 101))),
  r"\boxed{" + ", ".join(map(str, range(1, 101))) + "}",
  r"\boxed{1, 2, \ldots, 18}",
  r"\boxed{[0, 100]}",
  r"\boxed{(17, 19)}",
  r"\boxed{x \le 18}",
  r"\boxed{x \ge 18}",
  r"\boxed{x \in \{17, 18\}}",
  r"\boxed{\pm 18}",
  r"\boxed{\mathbb{Z}}",
  r"\boxed{18 \pm 10}",
  r"\boxed{\infty}",
  r"\boxed{\frac{0}{0}}",
  r"\boxed{\text{NaN}}",
  # The question's own numbers and expressions (What is 11 + 7?).
  "11 7 18",
  "11 + 7",
  r"\boxed{11 + 7}",
  r"\boxed{3 \cdot 6}",
  r"\boxed{(3)(6)}",
  r"\boxed{2 * 9}",
  r"\boxed{\sqrt{324}}",
  r"\boxed{\sum_{i=1}^{18} 1}",
  r"\boxed{\int_0^{18} 1 dx}",
  r"\boxed{\lfloor 18.3 \rfloor}",
  r"\boxed{\binom{18}{1}}",
  r"\boxed{|{-18}|}",
  r"\boxed{18 \cdot x / x}",
  r"\boxed{18.0000000000001}",
  # Answers that are not finished.
  r"\boxed{18",
  r"\boxed{17} \boxed{18",
]


def test_hacks_are_wrong(verifier):
  rewards = _rewards(verifier, [("18", text) for text in _HACKS])
  assert not [text for (_, text), reward in rewards.items() if reward != 0]


def test_noise_is_wrong_and_never_reaches_a_worker():
  verifier = MathVerifier(num_workers=1, timeout_seconds=1.0)
  noise = "abc {18} $ 18 \\ x^ = ( " * 1000
  texts = [
    noise,
    "18 " * 7000,
    rf"\boxed{{{noise}}}",
    rf"The answer is {noise}",
    "\\boxed{" * 10_000,
    rf"\boxed{{{'{' * 9000}18{'}' * 9000}}}",
    rf"\boxed{{{'9' * 20_000}}}",
  ]
  with ends():
    verdicts = _judge(verifier, [("18", text) for text in texts])
  assert [v.reward for v in verdicts] == [0] * len(texts)
  assert verifier._pool._workers == []


def test_hopeless_input_costs_its_own_limit_only(verifier):
  texts = [rf"\boxed{{{x}}}" for x in ("2x", "7.0", "y", "1 + x")]
  poison = [r"\boxed{9^{9^{9^{9}}}x}", r"\boxed{x + 10^{10^{10^{10}}}}"]
  slow = MathVerifier(num_workers=1, timeout_seconds=2.0)
  golds = ["x", "7", "x", "x + 1"]
  try:
    _judge(slow, [("x", texts[0])])  # starts the worker
    verdicts = _judge(
      slow, [*zip(golds, texts), *(("x + 1", p) for p in poison), ("x", "$x$")]
    )
  finally:
    slow.close()
  assert [v.reward for v in verdicts] == [0, 1, 0, 1, 0, 0, 1]
  assert [v.timed_out or v.died for v in verdicts[4:6]] == [True, True]
  assert not any(v.timed_out or v.died for v in [*verdicts[:4], verdicts[6]])


def test_a_pair_is_judged_once():
  class Counting:
    jobs = 0

    def map(self, jobs):
      self.jobs += len(jobs)
      return [equivalent(*job) for job in jobs]

  verifier = MathVerifier(num_workers=1, timeout_seconds=1.0)
  verifier._pool = pool = Counting()
  verdicts = _judge(verifier, [("x+1", r"\boxed{1+x}")] * 8)
  assert [v.reward for v in verdicts] == [1] * 8
  assert pool.jobs == 1


def test_a_comparison_that_raises_is_a_wrong_answer(monkeypatch):
  def fail(*_):
    raise TypeError("cannot compare")

  monkeypatch.setattr(comparison, "equivalent", fail)
  assert math._work(("x", "y", "")) is False
  assert math._verdict([False]) == Verdict(0.0)
  assert math._verdict([True, False]) == Verdict(0.0)  # two answers
  assert math._verdict([workers.DIED]) == Verdict(0.0, died=True)
  assert math._verdict([workers.TIMED_OUT]) == Verdict(0.0, timed_out=True)


def test_lists_what_cannot_be_parsed(verifier):
  golds = ["18", r"\frac12", r"1, 2, ..., 9", "12:00", "(1,2)"]
  assert verifier.unparseable(golds) == [2]


@pytest.mark.parametrize("name", ["math500", "gsm8k"])
def test_golds_accept_themselves_and_not_the_next(verifier, name):
  path = _DATA / name / "test.jsonl"
  if not path.exists():
    pytest.skip(f"{path} is absent")
  golds = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
  boxed = [rf"\boxed{{{gold}}}" for gold in golds]
  same = _judge(verifier, list(zip(golds, boxed)))
  assert all(v.reward == 1 for v in same)
  verdicts = _judge(verifier, list(zip(golds, boxed[1:] + boxed[:1])))
  assert not any(v.timed_out or v.died for v in verdicts)
  equal = {
    (a, b)
    for a, b, v in zip(golds, golds[1:] + golds[:1], verdicts)
    if v.reward == 1 and a != b
  }
  assert equal == ({("5", "x=5")} if name == "math500" else set())
  assert verifier.unparseable(golds[:100]) == []


# They ask for decimals that are rounded, relations that are no sets, and
# variables that have no names; see docs/verifiers.md.
_OTHER_RULES = {
  (r"$(\frac{3}{5},\frac{8}{3}]$", "$(0.6,2.6667]$"),
  (r"$x \in [-2,7]$", r"$-2 \\le x \\le 7$"),
  ("$f(x)$", "$f(y)$"),
}


def test_agrees_with_the_cases_of_math_verify(verifier):
  path = _DATA / "grader_cases" / "equivalence.jsonl"
  if not path.exists():
    pytest.skip(f"{path} is absent")
  cases = [c for c in benchmark.read_cases(path) if c["group"] == "Math-Verify"]
  assert len(cases) == 121
  disagreed = {
    (c["gold"], c["candidate"])
    for c, agrees in zip(cases, benchmark.agreements(verifier, cases))
    if not agrees
  }
  assert disagreed == _OTHER_RULES


@pytest.mark.parametrize("name", ["gsm8k_model_traces", "math100_model_traces"])
def test_agrees_with_the_verdicts_of_others(verifier, name):
  path = _DATA / name / "test.jsonl"
  if not path.exists():
    pytest.skip(f"{path} is absent")
  problems, texts, theirs = benchmark.read_traces(path)
  ours = [v.reward == 1 for v in verifier.judge(problems, texts)]
  assert sum(theirs) == {"gsm8k_model_traces": 2001}.get(name, 728)
  assert {p.id for p, a, b in zip(problems, ours, theirs) if a != b} == (
    {"math_cot_100/72"} if name == "math100_model_traces" else set()
  )


def test_no_formula_of_a_question_is_its_answer(verifier):
  path = _DATA / "math500" / "test.jsonl"
  if not path.exists():
    pytest.skip(f"{path} is absent")
  accepted = benchmark.accepted_repetitions(verifier, path, step=12)
  assert accepted == []
