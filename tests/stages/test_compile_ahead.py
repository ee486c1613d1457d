"""What is compiled ahead of a run: the same programs, with nothing there."""

import collections
import dataclasses
import json
import re
import types

import jax
import numpy as np
import pytest
import tiny_run
from etils import epath

from prefixrl_jax.configs import math
from prefixrl_jax.distributed import ahead, chips, topologies
from prefixrl_jax.distributed.ahead import Program
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.run import fitting, setup
from prefixrl_jax.run.assembly import assemble
from prefixrl_jax.run.session import demo_model, open_engine
from prefixrl_jax.stages import compile_ahead, compile_table
from prefixrl_jax.types import UserError

_ARM = "sft_rl"


def _config(**fields):
  """An arm with adapters, SFT and scores; its samplers have one shape."""
  config = tiny_run.config()
  # Not as a flat field: it has none of its own yet.
  config.arms[_ARM].learner = dict(kl_coefficient=0.1, kl_in="reward")
  config.run_arms = (_ARM,)
  sampler = {
    f"{section}.{name}": count
    for section in ("screen", "collect", "evals")
    for name, count in (("rows", 2), ("lanes", 4))
  }
  config.update_from_flattened_dict(
    sampler | {"train.rows": 2, "lora.rank": 2, "evals.fractions": ()} | fields
  )
  return config


# As libtpu lists them.
_LARGEST = """
  Largest program allocations in hbm:

  1. Size: 8.00G
     Operator: op_name="jit(f)/while/body/logits/tanh" source_file="x.py"
     Shape: bf16[65536,65536]{1,0:T(8,128)(2,1)}
     Unpadded size: 8.00G
     XLA label: fusion = fusion(x), kind=kOutput
     Allocation type: HLO temp
     ==========================

  2. Size: 512.0M
     Shape: f32[128,1024]{1,0:T(8,128)}
     Unpadded size: 512.0M
     Allocation type: HLO temp
     ==========================
"""


def _refusing(*names):
  """Lowered.compile for devices that have too little memory for some."""
  compile_ = jax.stages.Lowered.compile

  def compile_or_refuse(self, *args, **kwargs):
    if any(f"@jit_{name}" in self.as_text()[:200] for name in names):
      raise jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used"
        " 26.96G of 15.75G hbm. Exceeded hbm capacity by 11.21G.\n" + _LARGEST
      )
    return compile_(self, *args, **kwargs)

  return compile_or_refuse


def _engine(config, mesh):
  return open_engine(
    config,
    model=demo_model(config.model),
    mesh=mesh,
    stop_tokens=tiny_run.TOKENIZER.stop_tokens,
    show=lambda _: None,
  )


def test_what_is_compiled_ahead_is_what_a_run_lowers(monkeypatch):
  """Text by text: the run has arrays, the other shapes alone."""
  config, mesh = _config(), make_mesh(1, 2, 2, devices=jax.devices()[:4])
  session = tiny_run.session(config, mesh)
  run, sizes = {}, []
  call, make = Program.__call__, setup.make_parts

  def note(program, args, kwargs):
    kinds = tuple(map(ahead._kind, jax.tree.leaves((args, kwargs))))
    if (program, kinds) not in run:
      text = program.lower(*args, **kwargs).as_text()
      run[program, kinds] = program.name, text

  def calling(self, *args, **kwargs):
    note(self, args, kwargs)
    return call(self, *args, **kwargs)

  def compiling(self, *args, **kwargs):  # no update is made here
    note(self, args, kwargs)
    return self

  def making(engine, arm, of_data, seed):
    sizes.append(of_data)
    return make(engine, arm, of_data, seed)

  with monkeypatch.context() as patch:
    patch.setattr(Program, "__call__", calling)
    patch.setattr(Program, "compile", compiling)
    patch.setattr(setup, "make_parts", making)
    assemble(session, tiny_run.data(), arm=_ARM, seed=0)

  engine = _engine(config, mesh)
  monkeypatch.setattr(
    jax.stages.Lowered,
    "compile",
    _refusing("update", "score", "learner_s_state", "sampler_s_state"),
  )
  with ahead.compiling(ahead.Compiler()) as compiler:
    parts = setup.make_parts(engine, config.arms[_ARM], sizes[0], 0)
    setup.compile_all(engine, parts)
  found = [(done.name, done.lowered.as_text()) for done in compiler.compiled]
  assert {*run.values()} == {*found}
  assert collections.Counter(name for name, _ in found) == {
    "adapters": 1,
    "learner's state": 1,
    "update": 2,  # RL and SFT
    "score": 1,
    "hand over a layer": 1,
    "hand over the rest": 1,
    "sampler's state": 1,
    "begin prefill": 2,  # one row, and both
    "prefill, last layer": 2,
    "start": 1,
    "decode": 1,
    "pick": 2,
  }


def test_the_stage_says_what_fits_and_what_would_help(
  tmp_path, monkeypatch, capsys
):
  """A program that no device holds does not keep others from being told."""
  monkeypatch.setattr(
    jax.stages.Lowered, "compile", _refusing("decode", "update", "score")
  )
  config = _config(**{"lora.rank": 0})
  config.run_arms = ("rl",)
  config.mesh.update(data=4, fsdp=2)
  with pytest.raises(
    UserError,
    match=r"^not every program fits. decode \(screen\) takes 26.96G of 15.75G"
    r" on each device \(the largest: 8.00G bf16\[65536,65536\] of logits/tanh,"
    r" 512.0M f32\[128,1024\]\): fewer rows(.|\n)*; update \(rl, RL\)"
    r" .*remat=full",
  ):
    compile_ahead.run(config, epath.Path(tmp_path), "")
  summary = json.loads((tmp_path / "compile" / "summary.json").read_text())
  programs = {p["name"]: p for p in summary["programs"]}
  parts = ("rollouts", "curve", "evaluate", "RL", "rescore")
  of = {place for p in summary["programs"] for place in p["of"]}
  assert of == {"screen", "collect", *(f"rl, {part}" for part in parts)}
  refused = [p["name"] for p in summary["programs"] if p["error"]]
  assert refused == ["decode", "update", "score"]
  # Keys and values of a layer's two heads of 8, in float32: a device has one
  # of eight rows, a trunk of 24 tokens and four lanes of 24.
  state = programs["sampler's state"]["memory"]["results"]
  caches = 2 * 2 * 8 * (24 + 4 * 24) * 4
  assert caches < state < 1.1 * caches
  # A layer's eight matrices are in two shards, of which a device has one.
  received = programs["hand over a layer"]["collectives"]["all-gather"]
  assert received["bytes"] == 4 * (4 * 16 * 16 + 2 * 16 * 32) / 2
  out = capsys.readouterr().out
  assert re.search(r"\| decode \| .*\*\*26.96G, does not fit\*\*", out)
  assert "| update | RL |" in out
  assert "| pick | " in out


def test_only_what_is_asked_for_is_compiled(tmp_path, monkeypatch, capsys):
  """The rest of a step is counted by hand; the whole run is not."""
  monkeypatch.setattr(chips, "of_kind", lambda kind: chips.CHIPS["v5e"])
  config = _config(**{"lora.rank": 0})
  config.run_arms = ("rl",)
  config.mesh.update(data=4, fsdp=2)
  where = epath.Path(tmp_path)
  only = ("RL/update", "rollouts/decode")
  compile_ahead.run(config, where, "", only=only)
  summary = json.loads((tmp_path / "compile" / "summary.json").read_text())
  found = [(p["name"], p["of"]) for p in summary["programs"]]
  assert found == [("update", ["rl, RL"]), ("decode", ["rl, rollouts"])]
  step = summary["steps"]["rl"]
  assert step["prefill"] > 0
  assert step["update"] == summary["programs"][0]["at_least"]
  assert summary["chip_hours"] == {}
  assert "rl: a step takes at least" in capsys.readouterr().out
  with pytest.raises(UserError, match="--only: a run has no part 'updates'"):
    compile_ahead.run(config, where, "", only=("updates",))
  with pytest.raises(UserError, match="--only: this run has no SFT"):
    compile_ahead.run(config, where, "", only=("SFT",))


def test_what_fits_by_itself_must_fit_beside_what_else_is_there(
  tmp_path, monkeypatch, capsys
):
  """Caches and weights wait while an update runs; its arrays then go."""
  monkeypatch.setattr(chips, "of_kind", lambda kind: chips.CHIPS["v5e"])
  config = _config(**{"lora.rank": 0})
  config.run_arms = ("rl",)
  config.mesh.update(data=4, fsdp=2)
  where, only = epath.Path(tmp_path), ("RL/update", "rollouts/decode")
  compile_ahead.run(config, where, "", only=only)
  summary = json.loads((tmp_path / "compile" / "summary.json").read_text())
  update, decode = summary["programs"]
  plan = summary["plan"]["train"]
  waits = ("base policy", "sampler's parameters", "kv caches")
  assert update["beside"] == pytest.approx(sum(plan[x] for x in waits))
  state = ("base policy", "parameters", "optimizer")
  assert decode["beside"] == pytest.approx(sum(plan[x] for x in state))
  capsys.readouterr()
  tight = dataclasses.replace(
    chips.CHIPS["v5e"], memory=update["memory"]["peak"] * 1.001
  )
  monkeypatch.setattr(chips, "of_kind", lambda kind: tight)
  said = r"update .* on each device: .*remat=full"
  with pytest.raises(UserError, match=said):
    compile_ahead.run(config, where, "", only=only)
  assert "does not fit** |" in capsys.readouterr().out


def test_bars_that_are_missed_are_said():
  program = {
    "of": ["rl, RL"],
    "rows": None,
    "memory": {"arguments": 1.0, "temporaries": 0.0, "peak": 1.0},
    "by_xla": {"flops": 1.0, "bytes": 1.0},
    "by_hand": {"flops": 1.0, "bytes": 1.0},
    "collectives": {},
    "error": "",
    "compile_seconds": 1.0,
    "seconds": {"compute": 0.39, "memory": 0.5},
    "at_least": 1.0,
    "mfu": 0.39,
    "bandwidth": 0.5,
  }
  summary = {
    "device": "TPU v5 lite",
    "device_bytes": 2**34,
    "steps": {},
    "chip_hours": {},
    "programs": [{"name": name} | program for name in ("update", "decode")],
  }
  found = compile_table.table(summary)
  assert "| memory | 39%, 50% |" in found
  missed = [line for line in found.splitlines() if "reaches at most" in line]
  assert missed == [
    "update (rl, RL) reaches at most 39% of the chip's peak FLOP/s, without"
    " what is recomputed; 40% are wanted."
  ]


def test_of_what_may_fit_the_first_that_the_compiler_takes_is_said(
  monkeypatch, tmp_path, capsys
):
  """In the order of the estimate; nothing after it is compiled."""
  monkeypatch.setattr(chips, "of_kind", lambda kind: chips.CHIPS["v5e"])
  tried = []

  def compile_(config, *args):
    tried.append((config.mesh.fsdp, args[4].remat))
    if len(tried) == 1:
      raise UserError("not every program fits.")

  monkeypatch.setattr(compile_ahead, "_compile", compile_)
  choices = [
    fitting.Choice({"mesh.fsdp": n, "model.remat": remat}, 1e9, 1.0)
    for n, remat in ((2, "none"), (4, "full"), (8, "full"))
  ]
  monkeypatch.setattr(fitting, "search", lambda *args: choices)
  compile_ahead.run(_config(), epath.Path(tmp_path), "", fit=True)
  assert tried == [(2, "none"), (4, "full")]
  out = capsys.readouterr().out
  assert out.endswith("--config.mesh.fsdp=4 --config.model.remat=full\n")


def test_what_fits_an_unknown_chip_cannot_be_said(tmp_path):
  with pytest.raises(
    UserError, match="--fit needs --topology: what cpu can do"
  ):
    compile_ahead.run(_config(), epath.Path(tmp_path), "", fit=True)


def test_where_nothing_was_allocated_the_largest_arrays_are_named():
  """libtpu has no list then; arrays are those of all devices."""

  def make(x):
    return jax.numpy.sort(x @ x.T, axis=-1).sum()

  x = jax.ShapeDtypeStruct((2**16, 4), jax.numpy.bfloat16)
  text = jax.jit(make).lower(x).as_text()
  error = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required"
    " for HLO temporaries (40.00G) exceeds available HBM (15.75G)."
  )
  found = compile_table.largest_buffers(error, text)
  # 2 ** 32 numbers, of two bytes, and of four where they are added up.
  assert found[0] == "16G f32[65536,65536] of convert on all devices"
  assert "8G bf16[65536,65536] of dot_general on all devices" in found


def test_what_needs_the_results_of_one_that_does_not_fit_is_left_out(
  monkeypatch,
):
  def make(x):
    return x + 1

  monkeypatch.setattr(jax.stages.Lowered, "compile", _refusing("make"))
  where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shape = jax.ShapeDtypeStruct((2,), np.float32, sharding=where)
  twice = Program("twice", lambda x: 2 * x)
  with ahead.compiling(ahead.Compiler()) as compiler:
    with ahead.part("first"):
      twice(Program("make", make)(shape))  # whose sharding nobody knows
      raise AssertionError("is left before")
    with ahead.part("second"):
      twice(Program("make", make, out_shardings=where)(shape))
    with ahead.part("third"):
      assert twice(twice(shape)).shape == (2,)
  assert [(c.name, c.of, bool(c.error)) for c in compiler.compiled] == [
    ("make", ["first"], True),
    ("make", ["second"], True),
    ("twice", ["second", "third"], False),
  ]


def test_a_preset_s_shape_is_known_without_its_folder():
  config = math.get_config("model=llama31_8b")
  model, _ = compile_ahead._model(config)
  assert (model.num_layers, model.width, model.vocab_size) == (
    32,
    4096,
    128_256,
  )
  assert model.dtype == "bfloat16"


def test_of_a_folder_config_json_will_do(tmp_path):
  theirs = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "rms_norm_eps": 1e-5,
    "vocab_size": 40,
    "eos_token_id": [5, 7],
  }
  (tmp_path / "config.json").write_text(json.dumps(theirs))
  config = math.get_config("")
  config.model.folder = str(tmp_path)
  model, stop_tokens = compile_ahead._model(config)
  assert (model.num_layers, stop_tokens) == (3, (5, 7))


def test_without_a_model_s_name_there_is_no_shape():
  with pytest.raises(UserError, match=r"folder is empty; .*model=qwen3_4b"):
    compile_ahead._model(math.get_config(""))


def test_without_libtpu_the_remedy_is_said(monkeypatch):
  monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"pip install 'prefixrl_jax\[tpu\]'"):
    topologies.absent_devices("v5e:16x16")


def test_an_unknown_slice_lists_those_that_the_compiler_knows(monkeypatch):
  """Those that it takes when asked, whatever it is asked for."""

  def devices(topology):
    if topology in ("v5e:2x2", "v5e:4x4", "v5p:2x2x1"):
      return ["device"]
    raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT")

  monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda _: True)
  monkeypatch.setattr(topologies, "_devices", devices)
  with pytest.raises(
    UserError, match=r"no such slice; it knows v5e:2x2,4x4 v5p:2x2x1, and"
  ):
    topologies.absent_devices("v5e:3x3")


def test_several_slices_are_so_many_of_one(monkeypatch):
  asked = []

  def describe(**how):
    asked.append(how)
    return types.SimpleNamespace(devices=["device"])

  monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda _: True)
  monkeypatch.setattr(topologies.topologies, "get_topology_desc", describe)
  for topology in ("2xv5e:4x4", "v5p:2x2x1", "v6e:1x1"):
    assert topologies.absent_devices(topology) == ["device"]
  assert asked == [
    {"platform": "tpu", "topology_name": "v5e:4x4", "num_slices": 2},
    {"platform": "tpu", "topology_name": "v5p:2x2x1"},
    {
      "platform": "tpu",
      "topology_name": "v6e:1x1",
      "chips_per_host_bounds": (1, 1, 1),
    },
  ]


def test_where_the_compiler_itself_fails_no_slice_is_blamed(monkeypatch):
  """As where another process holds libtpu: it would know none at all."""

  def devices(_):
    raise jax.errors.JaxRuntimeError("ABORTED: held by another process")

  monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda _: True)
  monkeypatch.setattr(topologies, "_devices", devices)
  with pytest.raises(jax.errors.JaxRuntimeError, match="another process"):
    topologies.absent_devices("v5e:2x2")
