"""Mutants of what is rewarded, and of what is asked: see mutants.py."""

_MATH = (
  "rewards/test_math.py::test_the_last_sentence_is_the_last_resort"
  " rewards/test_math.py::test_the_rules_of_equality"
  " rewards/test_math.py::test_hacks_are_wrong"
)
ROWS: tuple[tuple[str | tuple[str, str], ...], ...] = (
  # -- thoughts are no answers
  (
    "text/thoughts.py",
    "text/test_thoughts.py",
    ("  is_open = last + 1 < len(marks)", "  is_open = False"),
  ),
  (
    "text/thoughts.py",
    "rewards/test_answers.py",
    ("return split(text).answer", "return text"),
  ),
  (
    "rewards/code.py",
    "rewards/test_code.py::test_finds_the_last_block",
    ("  text = without_thoughts(text)\n  for line", "  for line"),
  ),
  (
    "rewards/answers.py",
    "rewards/test_answers.py",
    ("  text = without_thoughts(text)\n  if tags", "  if tags"),
  ),
  (
    "rewards/surroundings.py",
    "rewards/test_answers.py",
    ("    or RETRACTION.match(behind[:_NEAR])\n", ""),
    (
      "any(RETRACTION.match(part) for part in (behind, *next_one[1:]))",
      "False",
    ),
    ("    _DENIED.search(before)\n    or", "    False\n    or"),
  ),
  (
    "rewards/gym.py",
    "rewards/test_gym.py::test_thoughts_and_tags_that_are_never_closed"
    " rewards/test_gym.py::test_what_is_not_finite_never_reaches_a_scorer"
    " rewards/test_gym.py"
    "::test_what_is_right_for_other_problems_too_is_not_right"
    " rewards/test_gym.py"
    "::test_a_task_whose_scorer_takes_a_constant_is_refused_when_drawn"
    " rewards/test_gym.py::test_a_part_of_the_mark_is_wrong",
    ("  text = without_thoughts(text)\n  given", "  given"),
    (
      "if answer is None or not _may_be_scored(answer, entry):",
      "if answer is None:",
    ),
    ("if len(golds) >= _TOO_MANY:", "if False:"),
    ("return count >= 2 and count > len(others) / 2", "return False"),
    (
      "    and not _accepts_quietly(name, entry, _NONSENSE)\n"
      "    and not _is_for_all(name, entry, answer, others)",
      "    and not _is_for_all(name, entry, answer, others)",
    ),
    ("(answer, entry) == 1.0", "(answer, entry) > 0"),
  ),
  (
    "rewards/countdown.py",
    "rewards/test_countdown.py",
    ("used == allowed if use_all else used <= allowed", "used <= allowed"),
    ("value == target and ", ""),
    (
      "if claims and [claim.strip() for claim in claims] != [str(target)]:",
      "if False:",
    ),
    ('_BLANK.sub(" ", text)', "text"),
  ),
  (
    "embedded/judging.py",
    "embedded/test_countdown_steps.py::test_every_step_is_checked",
    ("without_thoughts(text)", "text"),
  ),
  (
    "rewards/logic.py",
    "rewards/test_logic.py",
    ("or _is_denied(without_thoughts(text), label)", ""),
    ("_is_denied(without_thoughts(text), label)", "_is_denied(text, label)"),
    ("all(part.lower() in neutral for part in others)", "True"),
    ("if len(named) == 1 else None", "if named else None"),
  ),
  # -- mathematics
  (
    "rewards/evaluation.py",
    _MATH + " rewards/test_equality.py",
    (  # absolutely
      "not _close(ours, theirs) or not _vanishes(gold - answer, point)",
      "abs(ours - theirs) > sympy.Float(10) ** -15",
    ),
    (" or not _vanishes(gold - answer, point)", ""),
  ),
  (
    "rewards/equality.py",
    _MATH + " rewards/test_equality.py",
    ("  return bool(is_symmetric or factor > 0)", "  return True"),
    (
      "    return abs(factor) == 1 and (is_symmetric or factor == 1)",
      "    return True",
    ),
  ),
  (
    "rewards/comparison.py",
    _MATH + " rewards/test_statements.py",
    (
      "  return not statements.repeats(statement, gold, answer, _reader())",
      "  return True",
    ),
    (
      "  if equality.is_unsolved(theirs) and not equality.is_unsolved(ours):",
      "  if False:",
    ),
    (" or _repeats_number(statement, number, other)", ""),
    (
      "names.same_time, names.same_name):\n    if (result",
      "names.same_time):\n    if (result",
    ),
  ),
  (
    "rewards/names.py",
    _MATH,
    ("ours[2] == theirs[2] and len(halves) < 2", "ours[2] == theirs[2]"),
  ),
  (
    "rewards/quantities.py",
    _MATH + " rewards/test_quantities.py rewards/test_spellings.py",
    ("size = units.ratio(self.unit, other.unit)", "size = 1"),
    ("  text = text.translate(DASHES)\n  found", "  found"),
    ("    _CHANGES_NEXT.search(said)\n    or", "    False\n    or"),
    ('    or units.changes(" ".join(after.split()[:2]))\n', ""),
    (
      "plain.value in (percent.value, percent.value / 100)",
      "plain.value == percent.value",
    ),
  ),
  (
    "rewards/math.py",
    _MATH
    + " rewards/test_math.py::test_a_comparison_that_raises_is_a_wrong_answer",
    (
      "if results and all(result is True for result in results):",
      "if any(result is True for result in results):",
    ),
    (
      "  if not answer or surroundings.is_denied(sentence, answer):",
      "  if not answer:",
    ),
    (
      "  except Exception:  # what cannot be compared is not equal\n",
      "  except ArithmeticError:\n",
    ),
  ),
  # -- programs
  (
    "rewards/inside/running.py",
    "rewards/test_sandbox.py::test_status"
    " rewards/test_sandbox.py::test_runs_leave_nothing_to_each_other"
    " rewards/test_sandbox.py::test_no_kernel_memory_beside_the_limits",
    ("    empty(folder)\n", ""),
    ("  _drop_capabilities()\n  _prctl", "  _prctl"),
    ("    number = 0 if e.code is None else e.code", "    number = 1"),
  ),
  (
    "rewards/seccomp.py",
    "rewards/test_sandbox.py::test_filters_say_what_their_tables_say",
    (
      '  "sendto": (44, 206),\n',
      '  "sendto": (44, 206),\n  "sendmsg": (46, 211),\n',
    ),
    (
      '  "sendto": (44, 206),\n',
      '  "sendto": (44, 206),\n  "flock": (73, 32),\n',
    ),
    ("    code += _look_at(_FCNTL[column], 1, _only_if(_FILE_COMMANDS))\n", ""),
    ("unix = [*_only_if((1,)), ", "unix = ["),
  ),
  (
    "rewards/code.py",
    "rewards/test_code.py::test_finds_the_last_block rewards/test_verifiers.py"
    "::test_programs_are_judged_as_the_config_says",
    (
      "reward = share if self._partial else float(share == 1.0)",
      "reward = share",
    ),
    (
      '    return None, "no code"  # the last',
      '    return None, ""  # the last',
    ),
  ),
  (
    "problems/shown.py",
    "problems/test_shown.py",
    ("_GAP = 20", "_GAP = 2000"),
    ('for k in ("output", "or_output") if k in test', 'for k in ("output",)'),
    (
      'statement = problem.metadata.get("text") or problem.prompt',
      "statement = problem.prompt",
    ),
  ),
  # -- the host of verifiers
  (
    "rewards/workers.py",
    "rewards/test_workers.py",
    (
      "          results[worker.job] = DIED",
      "          results[worker.job] = None",
    ),
    (
      "          results[worker.job] = TIMED_OUT\n",
      "          results[worker.job] = DIED\n",
    ),
    (
      "    if isinstance(pickle.loads(data), Exception):\n      return data",
      "    return data",
    ),
    ("      self._failures = 0\n\n", "\n"),
    (
      "      except OSError as e:\n        worker_pipe",
      "      except KeyError as e:\n        worker_pipe",
    ),
    ("self._drop(*self._busy())  # nobody", "pass  # nobody"),
  ),
  # -- problems
  (
    "problems/streams.py",
    "problems/test_loading.py",
    ("elif self._shows_all_tests(problem):", "elif False:"),
    ("elif is_too_long and limit.drops:", "elif False:"),
    ("known[mark] = REPEATED", "pass"),
    ("if row.number < self._start:", "if False:"),
  ),
  (
    "problems/loading.py",
    "problems/test_loading.py",
    ("known = dict.fromkeys(known, EVALUATED)", "known = {}"),
    ("known |= dict.fromkeys(_excluded(config, seed), EVALUATED)", "pass"),
  ),
  (
    "embedded/countdown_steps.py",
    "embedded/test_countdown_steps.py",
    ("if is_held_out(numbers, target) == held_out:", "if True:"),
    ('f"{sorted(numbers)} {target}"', 'f"{numbers} {target}"'),
    ("_draw(rng, count, held_out=False)", "_draw(rng, count, held_out=True)"),
    ("s.left == (target,)", "True"),
  ),
  # -- other people's traces
  (
    "traces/imports.py",
    "traces/test_imports.py",
    ("if identity in self._texts:", "if False:"),
    ("if not foreign.finished:", "if False:"),
    ("      if self._is_full(m.wanted):\n", "      if False:\n"),
    ("if len(m.tokens) > max_length:", "if False:"),
  ),
  (
    "text/tokenizer.py",
    "traces/test_imports.py",
    ("if ids and ids[-1] in stops", "if False"),
  ),
  (
    "traces/foreign.py",
    "traces/test_foreign.py",
    ("found.said.thoughts or read_thoughts(", "read_thoughts("),
    ("if thought and thoughts.split(text).thoughts is None:", "if thought:"),
    ("and not thoughts.split(text).is_open", ""),
    ("return not said or said in _ENDED", "return True"),
    ('    return [_Text(Said("", ""), flaw=f"it is {e}")]', "    return []"),
  ),
  (
    "models/importing.py",
    "models/test_importing.py::test_a_tied_model_may_be_stored_as_its_head_alone"
    " models/test_importing.py"
    "::test_buffers_that_config_json_gives_are_passed_over"
    " models/test_importing.py::test_names_every_wrong_tensor",
    ("    if not _COMPUTED.search(name)\n", ""),
    ("if tied and embedding not in there and head in there:", "if False:"),
    ("    if found != shape:", "    if False:"),
  ),
  (
    "rewards/own.py",
    "test_own_tasks.py",
    (
      "    if not 0 <= float(reward) <= 1:  # nor if it is NaN",
      "    if False:",
    ),
    ("  if len(rewards) != count:", "  if False:"),
    ("alone = [range(i, i + 1) for i in lost]", "alone = []"),
    ('"JAX_PLATFORMS": "cpu", ', ""),
  ),
  (
    "problems/own.py",
    "test_own_tasks.py",
    ("    if earlier != number:", "    if False:"),
    ("    if one != other:", "    if False:"),
    ('if split == "heldout" and mark in marks["train"]:', "if False:"),
    (
      "    if all(len(parts[s].problems) >= wanted[s] for s in needed):",
      "    if False:",
    ),
  ),
)
