"""Mutants of what is computed: see mutants.py."""

# Rows of: a file within prefixrl_jax/, tests within tests/ that shall notice,
# and (text that is there once, what is put in its place); "": at the end.
ROWS: tuple[tuple[str | tuple[str, str], ...], ...] = (
  # -- who may import whom
  ("storage/trace_store.py", "test_architecture.py", ("", "import jax")),
  ("types.py", "test_architecture.py", ("", "import jax.numpy")),
  (
    "evals/summary.py",
    "test_architecture.py",
    ("", "from prefixrl_jax.train import TrainData"),
    ("", "from prefixrl_jax import checkpoints"),
  ),
  (
    "evals/accuracy.py",
    "test_architecture.py",
    ("", "from prefixrl_jax.train import TrainData"),
  ),
  # -- the learner
  (
    "learner/advantages.py",
    "learner/test_advantages.py",
    ("n / (n - 1)", "n / n"),
    ("np.where(equal, 0.0, centred)", "centred"),
    ("rewards - rewards.mean(axis=1, keepdims=True)", "rewards"),
    ("np.where(std > 0, std, 1)", "1"),
    ("(np.asarray(lengths) - 1)", "(0 * np.asarray(lengths))"),
    ("(np.asarray(lengths) - 1)", "np.asarray(lengths)"),
  ),
  (
    "learner/advantages.py",
    "learner/test_advantages.py",
    ("np.append(values[1:], 0.0)", "np.append(values[1:], 1.0)"),
    ("discount * decay * later", "discount * later"),
    ("deltas[t] + discount", "rewards[t] + discount"),
    ("variance + 1e-8", "variance"),
  ),
  (
    "learner/losses.py",
    "learner/test_losses.py",
    ("return -tokens.total(advantages", "return tokens.total(advantages"),
    ("jnp.where(action_mask, x, 0.0)", "x"),
    ("self.weights * x", "x"),
    ("jnp.maximum(plain, held)", "jnp.minimum(plain, held)"),
    ("low = 1 - clip_low", "low = 1 - clip_high"),
    ("(advantages < 0) & (loss", "(loss"),
    ("jax.lax.stop_gradient(clipped)", "clipped"),
    ("jnp.maximum(error, jnp", "jnp.minimum(error, jnp"),
    ("value_coefficient * value_loss", "value_loss"),
    ("jax.lax.stop_gradient(mean) +", "mean +"),
    ("/ jnp.maximum(length, 1)", ""),
    ("jnp.exp(logprobs / 2)", "jnp.exp(logprobs)"),
    ("jnp.where(is_trace, shaped", "jnp.where(~is_trace, shaped"),
    ("value + weight * tokens", "value + tokens"),
    ("value - entropy_coefficient", "value + entropy_coefficient"),
    ('needs |= {"reference"} |', "needs |="),
  ),
  (
    "learner/kl.py",
    "learner/test_losses.py",
    ("jnp.expm1(log_ratio) - log_ratio", "-log_ratio"),
    ("reference_logprobs - logprobs, 0.0", "logprobs - reference_logprobs, 0."),
    ("jnp.square(gap) / 2", "jnp.square(gap)"),
    ("to_come * logprobs, 0.0", "-to_come * logprobs, 0.0"),
    ("stop_gradient(sum_to_end(gap, goes_on))", "stop_gradient(gap)"),
    (
      "jax.lax.stop_gradient(sum_to_end(gap, goes_on))",
      "sum_to_end(gap, goes_on)",
    ),
  ),
  (
    "learner/segments.py",
    "learner/test_segments.py",
    ("on & before_on, ", "on, "),
    ("to_end + from_start - x", "to_end + from_start"),
  ),
  (
    "learner/logprobs.py",
    "learner/test_methods.py::test_entropy_and_values_by_plain_autodiff",
    ("log_p + own[..., None]", "log_p"),
    ("of_entropy = jax.lax.psum(of_entropy, vocab_axis)", "pass"),
    ("slope[..., None] / static.temperature", "slope[..., None]"),
  ),
  (
    "learner/critic.py",
    "learner/test_methods.py"
    "::test_a_frozen_trunk_has_no_gradient_of_the_critic",
    ("value_gradient=critic.trunk_gradient", "value_gradient=True"),
  ),
  (
    "learner/learner.py",
    "learner/test_methods.py::test_normalizers_by_hand",
    ("lane.weight / len(lane.tokens)", "lane.weight"),
    ("num_lanes * self._completion_length", "num_lanes"),
  ),
  (
    "run/credit.py",
    "run/test_credit.py",
    ("rewards[-1] += reward", "rewards[0] += reward"),
    ("returns=of_values + value", "returns=of_values"),
    ("max(learner.decay_by_length * length, 1)", "max(length, 1)"),
    ("- pass_rates[group.problem.id]", ""),
    ("rewards[i] -= np.sum(", "rewards[i] += np.sum("),
    ('~truncated | (learner.truncated != "masked")', "~truncated"),
    ("min(i, larger)", "0"),
    ("np.clip(kl / learner.kl_target - 1, -0.2, 0.2)", "0.2"),
  ),
  (
    "learner/update.py",
    "learner/test_update.py"
    "::test_what_is_to_come_of_a_completion_ends_with_it"
    " learner/test_update.py::test_metrics_tell_prefixed_from_no_prefix"
    " learner/test_update.py"
    "::test_an_update_that_is_not_finite_leaves_the_state_if_asked_to"
    " learner/test_update.py::test_micro_batches_change_nothing",
    (
      'count = jnp.maximum(sums["tokens"], 1)',
      'count = sums["num_microbatches"]',
    ),
    (
      "jnp.isfinite(jnp.stack(of_step))",
      "jnp.isfinite(of_step[0])",
    ),
    ("& (branch[:, 1:] == branch[:, :-1])", ""),
    (
      "fori_loop(0, num_microbatches, add",
      "fori_loop(0, len(batch.tokens), add",
    ),
    (
      "plus(prefixed, rows.is_prefixed.astype(jnp.float32))",
      "plus(prefixed, 1.0)",
    ),
  ),
  (
    "learner/optimizer.py",
    "learner/test_optimizer.py",
    ("learning_rate / max(warmup_steps, 1)", "learning_rate"),
    ("learning_rate / max(warmup_steps, 1)", "0.0"),
    ("_FINAL_SHARE * learning_rate", "0.0"),
    ("max(warmup_steps - 1, 0)", "warmup_steps"),
    ("weight_decay=weight_decay", "weight_decay=0.0"),
    ("if not clip_norm:", "if True:"),
  ),
  (
    "learner/sft.py",
    "learner/test_sft.py",
    ("default_rng([seed, epoch])", "default_rng([seed, 0])"),
    ("default_rng([seed, epoch])", "default_rng([0, epoch])"),
    ("epochs * ceil_div(num_examples", "ceil_div(num_examples"),
  ),
  (
    "learner/packing.py",
    "learner/test_update.py::test_arrays_are_aligned_with_tokens"
    " learner/test_update.py::test_one_trunk_for_all_its_forks"
    " learner/test_update.py::test_a_tree_equals_its_sequences"
    " learner/test_packing.py",
    ("start + lane.fork - 1", "start + n - 1"),
    ("lane.fork + np.arange(k)", "n + np.arange(k)"),
    ("other.is_prefixed == tree.is_prefixed\n        and ", ""),
    ('row["fork"][here] = lane.fork', 'row["fork"][here] = n'),
  ),
  (
    "run/credit.py",
    "test_train.py::test_discounted_rewards_are_what_is_compared",
    ("np.array(lengths, int), learner.discount", "np.array(lengths, int), 1.0"),
  ),
  (
    "run/setup.py",
    "test_train.py::test_sft_is_maximum_likelihood_and_every_epoch_has_its_order",
    ("temperature=1.0", "temperature=c.rollouts.temperature"),
    (
      'make_loss("policy_gradient")',
      "make_loss(**dict(c.arms.rl_clipped.loss))",
    ),
  ),
  (
    "learner/learner.py",
    "test_train.py::test_stops_at_the_first_update_that_is_not_finite",
    ("if bad and not may_skip:", "if False:"),
  ),
  (
    "learner/learner.py",
    "test_train.py::test_stops_where_the_parameters_leave_the_numbers",
    (' and np.isfinite(metrics["param_norm"])', ""),
  ),
  (
    "learner/learner.py",
    "test_train.py::test_skips_and_counts_what_is_not_finite",
    ("int(bool(bad))", "1"),
  ),
  (
    "train.py",
    "test_train.py::test_skips_and_counts_what_is_not_finite",
    ('host.get("skipped", 0)', "0"),
  ),
  (
    "train.py",
    "test_train.py::test_resumed_equals_uninterrupted",
    ('ledger.set_entries(host["ledger"])', "pass"),
  ),
  (
    "train.py",
    "test_train.py::test_every_step_has_problems_of_its_own",
    ("gatherer.gather(draws, ", "gatherer.gather(0, "),
  ),
  (
    "train.py",
    "test_train.py::test_rl_starts_with_an_optimizer_of_its_own",
    ("state = made.learner.init(state.params)", "pass"),
  ),
  (
    "train.py",
    "test_train.py::test_a_schedule_and_a_loss_of_its_own_are_resumed",
    ('schedule.restore(host.get("schedule", {}))', "pass"),
  ),
  (
    "evals/curve.py",
    "evals/test_curve.py",
    ("if r.problem_id in data.hard_heldout", "if True"),
    ("last // self._spacing + 1", "last // self._spacing"),
    ("(last // self._spacing + 1) * self._spacing", "last + self._spacing"),
  ),
  (
    "evals/costs.py",
    "evals/test_costs.py",
    ("sorted(problems, key=rank)[:most]", "problems[:most]"),
    ("if not most or len", "if len"),
    ("input_tokens=num_samples * sum", "input_tokens=sum"),
  ),
  (
    "evals/evaluations.py",
    "evals/test_evaluations.py",
    ("if max(count.values(), default=0) > 1:", "if False:"),
    ("if any(s.get(name) != value for s in others)", "if others"),
  ),
  # -- prefixes
  (
    "prefixes/cuts.py",
    "prefixes/test_cuts.py",
    ("min(length - 1, revealed_length(length, high))", "length - 1"),
    ("max(1, math.ceil(low * length - _ROUNDING))", "1"),
    ("if not holds:", "if True:"),
    ("if place < kept", "if place != kept"),
    ("free[t].remove(earlier)", "pass"),
    ("fraction * length + _ROUNDING", "fraction * length"),
  ),
  (
    "prefixes/hints.py",
    "prefixes/test_hints.py",
    (" if i not in tokenizer.stop_tokens]", "]"),
    ('.rstrip("\\ufffd")', ""),
    ('"".join(thoughts.respelled(text, ("", ""))[::2])', "text"),
    ("told = prompt.removesuffix(instruction)", "told = prompt"),
    (
      'r"\\{(prompt|hint)\\}", lambda m: fields[m[1]], template',
      'r"\\{hint\\}", lambda m: hint, template.replace("{prompt}", told)',
    ),
    (" if hint.strip() else problem.prompt", ""),
  ),
  (
    "embedded/countdown_steps.py",
    "evals/test_markers.py",
    ('sum(sign != "+" for', 'sum(sign == "+" for'),
  ),
  (
    "embedded/countdown_steps.py",
    "prefixes/test_hints.py",
    ("{prompt[:-1]}{hint}>{prompt[-1]}", "{prompt[:-1]}{hint}{prompt[-1]}"),
  ),
  (
    "prefixes/mixture.py",
    "prefixes/test_mixture.py",
    ("[self._seed, kind, epoch]", "[self._seed, kind, 0]"),
    ("[self._seed, kind, epoch]", "[self._seed, 0, epoch]"),
    ("(step + 1) * count", "step * count + 1"),
  ),
  (
    "prefixes/adaptive.py",
    "prefixes/test_schedules.py",
    ("int(rate < self._low)", "int(rate <= self._low)"),
    ("int(rate > self._high)", "int(rate >= self._high)"),
    ("min(max(level, 0), len", "min(max(level, 0), 1 + len"),
    ('self._level |= state["levels"]', "pass"),
  ),
  (
    "rewards/judging.py",
    "rewards/test_judging.py",
    ("if not c.truncated", "if True"),
    ("[*prefixes[i].tolist(), *completions", "[*completions"),
    ("verdict.reward > 0 for", "verdict.reward >= 0 for"),
    ("verdict.reward > 0 for", "verdict.reward == 1 for"),
  ),
  (
    "evals/accuracy.py",
    "evals/test_accuracy.py",
    ("[a for a, holds in zip(asked, held) if not holds]", "asked"),
    ("for t in reversed(traces)", "for t in traces"),
  ),
  # -- sampling
  (
    "rollouts/drawing.py",
    "rollouts/test_sampler.py::test_logprobs_are_the_teacher_forced_ones",
    ("logits = logits / temperature", "logits = logits * 1.0"),
  ),
  (
    "rollouts/decoding.py",
    "rollouts/test_sampler.py::test_logprobs_are_the_teacher_forced_ones",
    ("(length < state.limit)", "(length <= state.limit)"),
    (
      "lambda key, number: (jax.random.fold_in(key, number), None)",
      "lambda key, number: (key, None)",
    ),
  ),
  (
    "rollouts/decoding.py",
    "rollouts/test_sampler.py"
    "::test_lanes_wait_for_work_no_longer_than_a_synchronisation_is_worth",
    ("busy - jnp.sum(state.active)", "0"),
  ),
  (
    "rollouts/drawing.py",
    "rollouts/test_sampler.py::test_filters_choose_but_leave_the_logprobs",
    ("kept = _filter(logits, top_k, top_p) > -jnp.inf", "kept = True"),
  ),
  (
    "rollouts/drawing.py",
    "rollouts/test_sampler.py::test_no_number_draws_what_is_impossible"
    " rollouts/test_sampler.py"
    "::test_tokens_are_drawn_in_proportion_at_every_number"
    " rollouts/test_sampler.py"
    "::test_every_place_of_a_completion_has_a_number_of_its_own"
    " rollouts/test_sampler.py::test_no_token_is_drawn_beyond_the_vocabulary",
    ("jax.vmap(jax.random.fold_in)(key, length)", "key"),
    (" + 2.0**-24", ""),
    ("(ends > target) & (weights > 0)", "ends >= target"),
  ),
  (
    "rollouts/sampler.py",
    "traces/test_rejection.py rollouts/test_sampler.py"
    "::test_cancel_keeps_earlier_attempts",
    (
      "truncated=int(tokens[i, n - 1]) not in self.stop_tokens",
      "truncated=False",
    ),
  ),
  (
    "rollouts/grid.py",
    "rollouts/test_grid.py",
    ("return piece.attempt > last", "return piece.attempt >= last"),
    ("min(above, self._cancelled.get(number, above))", "above"),
    ("next(filter(is_cached, free), free[0])", "free[0]"),
    (
      "self._cached = [_NO_TRUNK] * self._shape[0]",
      "self._cached = getattr(self, '_cached', [_NO_TRUNK] * self._shape[0])",
    ),
    ("request.first_attempt + i", "i"),
    ("plan.fork[r, g] = len(request.trunk)", "plan.fork[r, g] = 1"),
  ),
  (
    "rollouts/sampler.py",
    "rollouts/test_sampler.py::test_one_sampler_of_an_arena_has_arrays"
    " rollouts/test_sampler.py::test_forks_of_one_trunk_share_its_prefill",
    ("self.usage.prefill_tokens += trunks.size\n", "pass\n"),
    ("      holder.release()", "      pass"),
    ("    self._params: Any = None  # unstacked\n", ""),
    (
      "    self._grid.forget()\n    self._params = None",
      "    self._params = None",
    ),
  ),
  (
    "rollouts/sampler.py",
    "rollouts/test_sampler.py"
    "::test_a_policy_that_is_no_number_is_an_error_at_once",
    ("if not np.isfinite(logprobs[i, :n]).all():", "if False:"),
  ),
  (
    "rollouts/decoding.py",
    "rollouts/test_sampler.py"
    "::test_a_policy_that_is_no_number_is_an_error_at_once",
    ("    & jnp.isfinite(logprob),", ","),
  ),
  (
    "rollouts/requests.py",
    "rollouts/test_requests.py",
    ("first_attempt=request.first_attempt + start", "first_attempt=start"),
    ("(-max(r.max_tokens for _, r in b)", "(0"),
    ("while 0 < len(bundles) < rows:", "while False:"),
  ),
  (
    "run/memory_plan.py",
    "distributed/test_mesh.py::test_plan_by_hand"
    " distributed/test_mesh.py::test_what_is_alive_in_each_phase"
    " distributed/test_mesh.py::test_what_cannot_fit_is_refused_by_name"
    " distributed/test_mesh.py::test_what_is_revealed_needs_caches_too"
    " distributed/test_mesh.py::test_what_is_left_open_is_settled_by_the_plan",
    ("n * row_length <= _TOKENS_A_DEVICE", "True"),
    ('"optimizer": 2.0 * 4 * trunks * count', '"optimizer": 4.0 * count'),
    ("(2.0 + apart)", "2.0"),
    ('"train": {\n      **weights,\n', '"train": {\n'),
    ('    "curve": {**weights, **state, **own(evals)},\n', ""),
    ("max(evals.fractions, default=0) * completion", "0"),
    ("if need > have:", "if False:"),
  ),
  (
    "traces/rejection.py",
    "traces/test_rejection.py",
    ("return sorted(self.correct)[:count]", "return sorted(self.correct)"),
    ("if verdict.reward == 1:", "if verdict.reward >= 0:"),
    ("      logprobs=p.correct[attempt].logprobs,\n", ""),
    (
      "min(_ATTEMPTS_PER_LANE * sampler.lanes, budget - first)",
      "_ATTEMPTS_PER_LANE * sampler.lanes",
    ),
  ),
  # -- what is counted
  (
    "ledger.py",
    "test_ledger.py::test_sampling_by_hand"
    " test_ledger.py::test_update_by_hand"
    " test_ledger.py::test_update_of_adapters_by_hand"
    " test_ledger.py::test_training_leaves_screening_and_evaluation_out",
    ("2.0 * self._num_params * tokens", "3.0 * self._num_params * tokens"),
    ("per_param = 6.0 * (1", "per_param = 2.0 * (1"),
    ("count) for p in TRAINING)", "count) for p in PURPOSES)"),
  ),
  (
    "models/flops.py",
    "test_ledger.py",
    ("if head else 0", "if True else 0"),
    ("1 + usage.has_reference + (2 - is_frozen)", "1 + (2 - is_frozen)"),
    ("passes + (not usage.keeps_logits)", "passes"),
    ('usage.has_reference * work["pairs"]', '0 * work["pairs"]'),
    ('if config.norms == "pre" and not config.num_experts:', "if False:"),
  ),
  # -- experts
  (
    "models/experts.py",
    "models/test_experts.py",
    ("here = lambda x: jnp.where(is_here, x, 0)", "here = lambda x: x"),
    ("expert -= jax.lax.axis_index(expert_axis)", "expert -= 0"),
    ("for mesh_axis in reversed(mesh_axes):", "for mesh_axis in mesh_axes:"),
    (
      "_keep(grouped.product(sent, w, sizes))",
      "grouped.product(sent, w, sizes)",
    ),
  ),
  (
    "models/grouped.py",
    "models/test_experts.py",
    ("beyond = -len(x) % _TILE[0]", "beyond = 0"),
  ),
  (
    "distributed/compilation.py",
    "storage/test_metrics.py",
    ("event == COMPILE_EVENT", "True"),
  ),
  (
    "storage/metrics.py",
    "storage/test_metrics.py",
    ("self._seconds.get(name, 0.0) + spent", "spent"),
    ("    self._seconds = {}\n    return popped", "    return popped"),
    ("correct.all(1).mean()", "correct.any(1).mean()"),
    ("np.ptp(rewards[chosen]", "np.ptp(correct"),
  ),
  # -- evaluation and report
  (
    "evals/intervals.py",
    "evals/test_intervals.py",
    ("np.maximum(n - c - drawn, 0) / (n - drawn)", "(n - c) / n + 0 * drawn"),
    ("mean(axis=1), [tail, 1 - tail]", "mean(axis=1), [2 * tail, 1 - tail]"),
    ("nanquantile(means, [tail,", "nanquantile(means, [2 * tail,"),
    ("drawn @ np", "(0 * drawn + 1 / len(places)) @ np"),
    ("there = of_seed * (mass > 0)", "there = of_seed"),
    ("[places[p] for p in by_problem]", "[*range(len(by_problem))]"),
    ("ddof=1", "ddof=0"),
  ),
  (
    "evals/curves.py",
    "evals/test_summary.py",
    ("np.where(begins, cost[i], crossing)", "crossing"),
    ("e.problem_id in run.hard", "True"),
    ("and run.uses_traces", ""),
    ("means[(weights > 0) @ outside.astype(np.float64) > 0] = np.nan", "pass"),
  ),
  (
    "evals/comparisons.py",
    "evals/test_summary.py",
    ("[0.025, 0.975]", "[0.25, 0.75]"),
    ("np.mean(np.isnan(values))", "0.0"),
    ("undefined = (target == 0)", "undefined = (target < 0)"),
    ("if first_crossing else end", "if True else end"),
    (
      "measure(method, baseline, weights, weights)",
      "measure(method, baseline, weights, weights[::-1])",
    ),
    ("if len(method) < 2:", "if not method:"),
    ("1 - 1 / times if times", "1 - times if times"),
    ("finals[0] - finals[1]", "finals[1] - finals[0]"),
    (
      "shared = sorted(method.keys() & baseline.keys())",
      "shared = sorted(method.keys())",
    ),
  ),
  (
    "evals/summary.py",
    "evals/test_summary.py",
    ("(start + best) / 2", "best"),
    ("if best > start else None", "if True else None"),
    ("and accuracy >= threshold", "and accuracy > threshold"),
    ("bootstrap_interval(c / n)", "bootstrap_interval(np.repeat(c / n, n))"),
    ("results_of(run, split, fraction=0)", "results_of(run, split)"),
    ('NOT_BASELINES = (BASE, "prefixrl_only")', "NOT_BASELINES = (BASE,)"),
  ),
  (
    "evals/training.py",
    "evals/test_training.py",
    ("ddof=1", "ddof=0"),
    ('"train/{kind}/accuracy" not in row', '"train/{kind}/entropy" not in row'),
    ("some - every", "some"),
    ("[~np.isnan(values)]", ""),
    ("for s, a, x in r.prefixed if a == author", "for s, a, x in r.prefixed"),
    ("run.value[w == i]", "run.value[w >= i]"),
  ),
  (
    "evals/markers.py",
    "evals/test_markers.py",
    ("map(marker.measure, of_group)", "map(len, of_group)"),
  ),
  (
    "stages/rescore.py",
    "stages/test_rescore.py",
    ('{"prefix": []}', "{}"),
    ("since=last - last // 10", "since=last - last // 5"),
    ("arms.num_samples(c, c.arms[arm])", "c.train.completions_per_prompt"),
  ),
  (
    "evals/verdicts.py",
    "evals/test_verdicts.py",
    ("or 0) < 0", "or 0) <= 0"),
    ('["interval"][1] >= 0', '["interval"][0] >= 0'),
    ("low <= 0 <= high", "low <= 0 < high"),
    ("(-high, -low)", "(low, high)"),
    ("times < 1", "times > 1"),
    ("if winners or", "if"),
  ),
  (
    "evals/report_page/index.html.jinja",
    "evals/test_page.py",
    ("{% if samples %}", "{% if true %}"),
    ("{% if summary.versus %}", "{% if true %}"),
    ("{% if sample.reward == 1 %}", "{% if true %}"),
    ("{% if notes %}", "{% if false %}"),
    ("{{ of_arm | seeds(split)", "{{ [] "),
  ),
  (
    "evals/page.py",
    "evals/test_page.py",
    ("autoescape=True", "autoescape=False"),
    ('"never" if ratio == 0 else', '"0" if ratio is None else'),
  ),
  (
    "evals/samples.py",
    "evals/test_page.py::test_the_page_stays_below_5_mb",
    ("room -= _size(of_run[place])", "room -= 0"),
    ("[:_MOST_CHARACTERS]", "[:_MARKUP]"),
  ),
  (
    "evals/drawing.py",
    "evals/test_page.py::test_points_of_figures_say_their_values",
    ("height * (1 - y)", "height * y"),
    ("({low_} to {high_})", "({high_} to {low_})"),
  ),
)
