"""Mutants of what a run leaves, and of what it refuses: see mutants.py."""

ROWS: tuple[tuple[str | tuple[str, str], ...], ...] = (
  (
    "storage/files.py",
    "storage/test_files.py storage/test_artifacts.py",
    (
      "if self.sha256 not in (None, hashlib.sha256(data).hexdigest()):",
      "if False:",
    ),
    ("if seal != digest_of(value):", "if False:"),
    ("temporary = _temporary(path)\n  try:", "temporary = path\n  try:"),
    ("  put_back()  # left by one that was killed\n", ""),
    ("      put_back()\n      temporary.rmtree()", "      temporary.rmtree()"),
  ),
  (
    "storage/trace_store.py",
    "storage/test_trace_store.py",
    ('younger=("logprobs",)', "younger=()"),
    ('len(row["logprobs"]) != length', "False"),
    (' or np.isnan(row["logprobs"]).any()', ""),
  ),
  (
    "storage/metrics.py",
    "storage/test_metrics.py",
    (  # emptied, and only then written
      '    write_bytes(path, b"".join(line + b"\\n" for line in kept))\n'
      '    self._file = path.open("a")\n',
      '    self._file = path.open("w")\n'
      '    self._file.write("".join(x.decode() + "\\n" for x in kept))\n',
    ),
    ("    self._file.flush()\n", ""),
    (
      'if row is None or row["step"] <= resume_step',
      'if row and row["step"] <= resume_step',
    ),
    ('row["step"] <= resume_step', 'row["step"] < resume_step'),
  ),
  (
    "storage/rollout_store.py",
    "storage/test_rollout_store.py",
    ('f"{seed}/{step}/{problem_id}"', 'f"{step}/{problem_id}"'),
    ("    if not kept.num_rows or", "    if"),
    ('pc.less_equal(rows["step"], resume_step)', 'pc.is_valid(rows["step"])'),
    ("      self._thin_files()  # a killed", "      pass  # a killed"),
    ("    self._closed_bytes += self._open_bytes\n", ""),
    ("      self._closed_bytes = self._thin_files()\n", ""),
    ("    write_page_checksum=True,\n", ""),
    ("    remove_temporaries(folder)\n", ""),
  ),
  (
    "evals/page_files.py",
    "evals/test_rollout_pages.py",
    ('text.replace("<", "\\\\u003c")', "text"),
    ("if self._size and self._size + size > _PAGE_BYTES:", "if False:"),
    ("if texts and size + len(text) > _FILE_BYTES:", "if False:"),
    ("if len(whole) <= _TEXT_BYTES:", "if True:"),
  ),
  (
    "text/pieces.py",
    "text/test_pieces.py",
    (" and not goes_on", ""),
    (" and _PART not in after", ""),
  ),
  (
    "storage/artifacts.py",
    "storage/test_artifacts.py",
    ("if _limit(value) < _limit(record", "if False and _limit(record"),
    ("_limit(value) > _limit(record", "_limit(value) < _limit(record"),
    ("return value or math.inf", "return value"),
    ("remove(*self._leftovers())", "pass"),
    ("self._follows and bool(", "bool("),
    ("if there.get(key, _MISSING) != here.get(key, _MISSING)", "if False"),
    (
      "if here.get(key, _MISSING) not in (None, there.get(key, _MISSING))",
      "if False",
    ),
    ("not in (None, there.get(key, _MISSING))", "!= there.get(key, _MISSING)"),
    (
      "[] if self._follows else self._other_sources(record)",
      "self._other_sources(record)",
    ),
    ("elif record is None and (found := self._leftovers()):", "elif False:"),
    ('("depends", "made_from", "files")', '("depends", "made_from")'),
    ("used = [*used, self._execution]", "used = [self._execution]"),
  ),
  (
    "run/evaluations.py",
    "run/test_evaluations.py",
    ("found.exists and found.fits", "found.exists"),
    ("[] if of_set else [home]", "[home]"),
    ("found.exists and found.complete", "found.exists"),
    ('home.within(f"{name}-{home.key}")', "home"),
  ),
  (
    "run/provenance.py",
    "run/test_evaluations.py",
    ("there[new] = there[old] if old in today else there.pop(old)", "pass"),
    ("return younger | there", "return there"),
    ('"evals.run_sets", "evals.sets")', '"evals.sets")'),
  ),
  (
    "sweep/table.py",
    "sweep/test_table.py",
    ("return (not record", "return (bool(record"),
    ("values = (record[key]", 'values = (record["area"]'),
    ("i == 0 and has_result", "i == 0"),
    ("np.concatenate([[0.0], costs_of(run, _AXIS)])", "costs_of(run, _AXIS)"),
  ),
  (
    "parallel/jobs.py",
    "parallel/test_jobs.py",
    ("failed = [need for need in job.needs if need.error]", "failed = []"),
    ("      process.terminate()\n", "      pass\n"),
    ("elif not free or not all", "elif not all"),
  ),
  (
    "parallel/workers.py",
    "parallel/test_workers.py",
    ("      self._idle.append(self._worker)\n", ""),
    ("at_our_end=signal.SIGKILL", "at_our_end=signal.SIGCHLD"),
    ("return 1 if code == 0 else code", "return code"),
  ),
  (
    "parallel/phases.py",
    "parallel/test_phases.py",
    ("apart = len(work.data_seeds) < num_jobs", "apart = False"),
    ("      needs=needs,\n", ""),
    (
      "if not asked and (session.mesh.size > 1 or",
      "if not asked and (False or",
    ),
    ("    _check_needs(work, stages, arm, seed)\n", ""),
  ),
  (
    "sweep/running.py",
    "sweep/test_sweep.py",
    ("        if self._is_complete(point):\n", "        if False:\n"),
    ("      artifact.check()\n", "      pass\n"),
    ("and not to.exists()", ""),
  ),
  # A test each: all of them take long.
  *(
    (file, f"run/test_workdirs.py::test_{test}", *changes)
    for file, test, *changes in (
      (
        "run/provenance.py",
        "problems_are_compared_by_what_they_say",
        ("[p.id, p.prompt, p.answer, p.split,", "[p.id, p.prompt, p.split,"),
      ),
      (
        "run/provenance.py",
        "the_base_file_counts_and_not_its_place",
        (
          'digest.update(hashlib.file_digest(f, "sha256").digest())',
          "digest.update(str(file).encode())",
        ),
      ),
      (
        "run/provenance.py",
        "only_what_depends_on_it_is_refused",
        (
          '    ("problems.hint", "screen.max_correct"),\n',
          '    ("problems.hint",),\n',
        ),
      ),
      (
        "run/provenance.py",
        "a_finished_run_goes_on_to_a_raised_limit",
        ('    ("train.flops", "train.max_steps"),\n  ),', "    (),\n  ),"),
      ),
      (
        "run/provenance.py",
        "an_arm_is_refused_for_what_it_uses",
        ('("sft",) if own.sft_epochs else ()', '("sft",)'),
        ('("lora",) if config.lora.rank else ()', "()"),
        ('() if arms.uses_prefixes(own) else ("train.cuts_together",)', "()"),
        ('  "evals.curve_samples",\n', ""),
      ),
      (
        "run/provenance.py",
        "how_it_is_computed_may_change",
        ("    and not _is_execution(path)\n", ""),
      ),
      (
        "run/provenance.py",
        "a_relative_path_is_no_other_setting",
        ("(*not_after_all, *_PLACES)", "not_after_all"),
      ),
      (
        "run/provenance.py",
        "a_pretrained_base_of_other_settings",
        (
          '(("model", "pretrain", "problems.task"), ())',
          '(("pretrain", "problems.task"), ())',
        ),
      ),
      (
        "run/workspace.py",
        "a_program_that_makes_something_else",
        ("if stage in provenance.VERSIONS:", "if False:"),
      ),
      (
        "run/workspace.py",
        "whose_problems_a_run_learns_on",
        ('"data_seed": self.data_seed(seed),', '"data_seed": 0,'),
      ),
      (
        "run/workspace.py",
        "a_model_folder_is_compared_by_its_files",
        (
          "of_model_folder(self.model_folder, weights=True)",
          "of_model_folder(self.model_folder, weights=False)",
        ),
      ),
      (
        "run/workspace.py",
        "problems_are_compared_by_what_they_say",
        (
          '"problems": self._problems_digest(seed),\n          "base"',
          '"base"',
        ),
      ),
      (
        "run/workspace.py",
        "fresh_takes_what_the_stages_make_and_nothing_else",
        ("        if other.name in to_redo:", "        if True:"),
      ),
      (
        "run/workspace.py",
        "whether_anything_was_removed_is_known",
        ("    self._to_redo.clear()\n", ""),
      ),
      (
        "run/workspace.py",
        "a_limit_is_not_lowered",
        ("      limits=self._limits(stage),", ""),
      ),
      (
        "run/workspace.py",
        "what_was_made_from_a_part_that_came_out_different",
        (
          '_FOLLOW = ("cut", "evaluate", "rescore")',
          '_FOLLOW = ("cut", "evaluate", "rescore", "train")',
        ),
      ),
      (
        "run/workspace.py",
        "other_cuts_leave_arms_without_prefixes",
        ('needed.append("cut")', "pass"),
      ),
      (
        "run/workspace.py",
        "what_is_needed_is_of_the_same_settings",
        ("    artifact.check()\n    return artifact", "    return artifact"),
      ),
      (
        "pipeline.py",
        "fresh_leaves_a_folder_that_no_run_has_made",
        ("if self._fresh and not _is_of_a_run(workdir):", "if False:"),
      ),
      (
        "pipeline.py",
        "two_runs_do_not_work_in_one_workdir",
        ("with locked(workdir, work.console.print):", "if True:"),
      ),
      (
        "pipeline.py",
        "a_limit_is_not_lowered",
        ("        artifact.check()", "        pass"),
      ),
      (
        "pipeline.py",
        "a_killed_process_leaves_no_temporary_files_for_ever",
        (
          'remove_temporaries(workdir, workdir / "report")',
          "pass",
        ),
      ),
      (
        "stages/train.py",
        "a_finished_run_whose_checkpoints_are_gone_does_not_begin_again",
        (
          "if artifact.has_finished and not saved_steps(checkpoints):",
          "if False:",
        ),
      ),
    )
  ),
  (
    "stages/evaluate.py",
    "stages/test_evaluate.py",
    ('train.summary["steps"],', "None,"),
  ),
  (
    "stages/cut.py",
    "stages/test_cut.py",
    ("if not cuts.prefixed:", "if False:"),
    ("cuts.cut_earlier + cuts.left_out:", "cuts.left_out:"),
  ),
  (
    "run/upstream.py",
    "test_pipeline.py::test_without_hard_heldout_problems_a_run_goes_on",
    (
      'if p.split == "heldout"],',
      'if p.split == "heldout" and p in hard(work, seed, "heldout")],',
    ),
  ),
  (
    "stages/screen.py",
    "test_pipeline.py::test_no_hard_problem_is_said_before_collection",
    ("  upstream.hard_train(work, seed)\n  if not x", "  if not x"),
  ),
  (
    "run/parts.py",
    "run/test_parts.py",
    (
      'File(file, part["file_sha256"], "It is re-made.").read_bytes()',
      "pass",
    ),
    ("      remove(record)\n", ""),
    ("    except Damaged as e:", "    except Exception as e:"),
    ("if p.id not in done", "if True"),
  ),
  (
    "storage/locking.py",
    "storage/test_locking.py",
    ("if self.host != this.host:", "if False:"),
    ("if self.boot != this.boot:", "if False:"),
    ("if self.pids != this.pids:", "if False:"),
    ("if not owner.is_gone(this) and", "if False and"),
    ("is_here or _is_renewed(path, owner, show)", "is_here"),
    (
      "      if _owner(path) == this:\n        path.unlink()",
      "      path.unlink()",
    ),
    ("if os.getpid() == this.pid:", "if True:"),
    (
      "return _started(self.pid) != self.started",
      "return not _started(self.pid)",
    ),
    ('or fields[0] in "ZX"', ""),
  ),
  (
    "storage/signals.py",
    "storage/test_signals.py",
    ("    if self._came:\n      signal", "    if False:\n      signal"),
    ("came, self._came = self._came, 0", "came = self._came"),
    ("    if number is None:", "    if True:"),
  ),
  (
    "checkpoints.py",
    "test_checkpoints.py",
    ("      self._move_aside()\n", ""),
    ("    if here != there:", "    if False:"),
    ("lambda: check_sums(directory / str(step))", "lambda: None"),
    (
      "        failed[step] = one_line(e)\n",
      "        failed[step] = one_line(e)\n"
      "        self._manager.delete(step)\n",
    ),
    ("if is_last or isinstance(e, DamagedError):", "if True:"),
    ("      if not saved:", "      if False:"),
    ("steps[-1] if step is None else step", "steps[-1]"),
    ("    if step not in steps:\n", "    if False:\n"),
    ("      self._unread = list(failed)\n", ""),
    ("    if not (folder / name).exists():", "    if False:"),
  ),
  (
    "models/base_file.py",
    "models/test_base_file.py",
    ("x.astype(like.dtype)", "x"),
    ("  if not path.exists():", "  if False:"),
  ),
  (
    "models/base_file.py",
    "run/test_session.py::test_a_base_of_another_shape_is_named",
    ("    if there.get(name) != here.get(name):", "    if False:"),
    ("sorted(there.keys() | here.keys())", "sorted(there.keys())"),
  ),
  (
    "models/parameters.py",
    "models/test_base_file.py",
    ("      digest.update(block.tobytes())\n", "      pass\n"),
  ),
  # -- many processes
  (
    "distributed/hub.py",
    "distributed/test_supervisor.py"
    "::test_a_signal_while_others_are_waited_for_is_all_s",
    ("    if 0 not in self._peers or", "    if not self._has_begun or"),
    ("self.refusal or self._who_has_left()", "self.refusal"),
  ),
  (
    "distributed/mesh_shape.py",
    "distributed/test_mesh.py::test_slices_divide_the_data_axis",
    ("  if shape[0] % slices:", "  if False:"),
  ),
  # -- what is refused before it is paid for
  (
    "settings/rules.py",
    "settings/test_validation.py",
    ("type(v) is int and low <= v <= high", "type(v) is int"),
    ("      and len(set(v)) == len(v)\n", ""),
    ("is_real(v)\n      and", "True\n      and"),
  ),
  (
    "settings/checks.py",
    "settings/test_validation.py",
    ("    if name not in node:\n", "    if False:\n"),
    ("    if not node.rule.allows(value):", "    if False:"),
  ),
  (
    "settings/fields.py",
    "settings/test_validation.py",
    (
      '"temperature": Field(real(0.01, 100)',
      '"temperature": how(real(0.01, 100)',
    ),
    ('"rows": how(COUNT,', '"rows": Field(COUNT,'),
  ),
  (
    "settings/validation.py",
    "settings/test_validation.py",
    ("    c.screen.max_correct < c.screen.num_samples,", "    True,"),
    ("    p.low <= p.high,", "    True,"),
    ('bool(re.fullmatch(r"\\w[\\w.+-]*", name)) and name != "base"', "True"),
    ('not c.wandb.project or _is_installed("wandb")', "True"),
    ("list(m.values()).count(-1) <= 1", "True"),
    ("share in (0, 1) or 0 < count < prompts", "True"),
    ("c.problems.num_train > 0 or not needed", "True"),
    ("not 0 < c.learner.decay_steps <= c.learner.warmup_steps", "True"),
    ("r.timeout_seconds <= r.total_seconds", "True"),
    ('c.export.arm in ("", *c.arms)', "True"),
    ("c.export.seed in (-1, *c.seeds)", "True"),
    ("p.num_train + p.num_heldout > 0", "True"),
  ),
  (
    "settings/validation.py",
    "test_main.py::test_what_is_done_otherwise_than_the_config_says_is_said",
    ("    if abs(count - share * prompts) > 1e-6:", "    if False:"),
    ("  if not config.problems.num_heldout:", "  if False:"),
  ),
  (
    "startup.py",
    "test_startup.py",
    ("  if not there.is_dir():", "  if False:"),
    ("if disk.f_blocks and not disk.f_bavail:", "if False:"),
    ("if not has_tpu(root) and not any(", "if not any("),
    ('stream.reconfigure(errors="backslashreplace")', "pass"),
  ),
  # -- what has no need of JAX
  *(
    (file, f"test_architecture.py::{test}", ("", "import jax"))
    for file, test in (
      ("rewards/answers.py", "test_verifier_workers_do_not_import_jax"),
      ("stages/__init__.py", "test_starts_without_jax"),
      ("stages/show_problems.py", "test_problems_are_shown_without_jax"),
    )
  ),
)
