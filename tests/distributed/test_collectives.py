"""What devices send each other, counted by hand in small programs."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from prefixrl_jax.distributed.collectives import Traffic, traffic

# ruff: noqa: E501

# A loop of five turns around a loop whose length only the device knows.
_LOOPS = """HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%inner (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[], f32[8,16]) parameter(0)
  %x = f32[8,16]{1,0} get-tuple-element(%p), index=1
  %y = f32[8,16]{1,0} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %t = (s32[], f32[8,16]) tuple(%p, %y)
}

%outer (q: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %q = (s32[], f32[8,16]) parameter(0)
  %g = bf16[32,16]{1,0:T(8,128)} all-gather(%q), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %w = (s32[], f32[8,16]) while(%q), condition=%cond, body=%inner
}

%cond (r: (s32[], f32[8,16])) -> pred[] {
  %r = (s32[], f32[8,16]) parameter(0)
  ROOT %k = pred[] constant(true)
}

ENTRY %main (s: f32[8,16]) -> f32[8,16] {
  %s = f32[8,16]{1,0} parameter(0)
  %u = (bf16[4,16], bf16[16,16]) all-gather-start(%s), replica_groups=[2,4]<=[8]
  %d = bf16[16,16]{1,0} all-gather-done(%u)
  %m = f32[8,16]{1,0} all-to-all(%s), replica_groups=mesh['a'=2,'b'=8], device_ids=([8,2]T(1,0)) {'a','b':(2)4}, dimensions={0}
  %p = f32[8,16]{1,0} collective-permute(%s), source_target_pairs={{0,1},{1,0}}
  %r = f32[2,16]{1,0} reduce-scatter(%s), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %v = (s32[], f32[8,16]) while(%s), condition=%cond, body=%outer, backend_config={"known_trip_count":{"n":"5"}}
}
"""


def _counts(found):
  return {kind: (x.times, x.bytes) for kind, x in found.items()}


def test_loops_count_as_often_as_they_turn():
  found = _counts(traffic(_LOOPS, turns=3))
  # 2 x 3/4 of 8 x 16 floats, in each of 5 x 3 turns.
  assert found["all-reduce"] == (15, 15 * 2 * 0.75 * 8 * 16 * 4)
  # 3/4 of 32 x 16 of two bytes five times, and of 16 x 16 once.
  assert found["all-gather"] == (6, 0.75 * 2 * 16 * (5 * 32 + 16))
  # Of eight devices: an axis of two, and four of another one's eight.
  assert found["all-to-all"] == (1, 7 / 8 * 8 * 16 * 4)
  assert found["collective-permute"] == (1, 8 * 16 * 4)
  # What is scattered is four times what a device keeps.
  assert found["reduce-scatter"] == (1, 0.75 * 4 * 2 * 16 * 4)


def test_a_counter_below_a_constant_is_as_many_turns():
  """As libtpu writes a loop: it leaves out how often it turns."""
  said = ', backend_config={"known_trip_count":{"n":"5"}}'
  counts = """ -> pred[] {
  %n = s32[]{:T(128)} constant(7)
  %r = (s32[], f32[8,16]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%r), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}
"""
  begin = "%counts (r: (s32[], f32[8,16]))"
  text = (
    _LOOPS.replace(said, "")
    .replace("while(%s), condition=%cond", "while(%s), condition=%counts")
    .replace("ENTRY", begin + counts + "\nENTRY")
  )
  found = traffic(text, turns=3)
  assert found["all-reduce"].times == 7 * 3
  assert found["all-gather"].times == 7 + 1


def test_what_hosts_send_between_slices_counts_too():
  """As libtpu writes an all-reduce of two slices: 1024 x 8 x 128 halves."""
  text = """HloModule m

ENTRY %main (x: bf16[1024,8,128]) -> bf16[1024,8,128] {
  %x = bf16[1024,8,128]{2,1,0} parameter(0)
  %t = token[] after-all()
  %send = (bf16[1024,8,128]{2,1,0:T(8,128)(2,1)}, u32[], token[]) send(%x, %t), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (bf16[1024,8,128]{2,1,0:T(8,128)(2,1)}, u32[], token[]) recv(%t), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_megascale_reduce_operation="SUM",_xla_megascale_target="SLICES",_xla_megascale_transfer_type="ALL_REDUCE"}
  %y = bf16[1024,8,128]{2,1,0} fusion(%x), kind=kLoop, calls=%f
  %recv-done = (bf16[1024,8,128], token[]) recv-done(%recv), channel_id=1
  ROOT %z = bf16[1024,8,128] get-tuple-element(%recv-done), index=0
}
"""
  size = 2 * 1024 * 8 * 128
  mesh = {"data": 2, "fsdp": 4}
  for slices, share in (("{1,2}x{0:3}", 1.0), ("{1:4}x{0:3}", 1.5)):
    found = traffic(text.replace("SLICES", slices), mesh=mesh)
    assert found == {
      "all-reduce": Traffic(
        times=1.0,
        bytes=share * size,
        overlapped=share * size,
        by_axes={"slices": share * size},
        overlapped_by_axes={"slices": share * size},
      )
    }


def test_an_unknown_loop_counts_once_unless_it_is_said():
  assert traffic(_LOOPS)["all-reduce"].times == 5


def test_bytes_are_told_apart_by_the_axes_that_they_cross():
  """Two gather along the longer axis, and two exchange along the other."""
  found = traffic(_LOOPS, mesh={"data": 2, "fsdp": 1, "tensor": 8})
  pair = traffic(_LOOPS, mesh={"data": 8, "fsdp": 1, "tensor": 2})
  assert found["all-gather"].by_axes == {"tensor": 0.75 * 2 * 16 * 176}
  assert pair["all-gather"].by_axes == {"data+tensor": 0.75 * 2 * 16 * 176}
  assert pair["collective-permute"].by_axes == {"tensor": 8 * 16 * 4}


@pytest.mark.parametrize(
  ("groups", "axes"),
  [
    ("{{0,4},{1,5},{2,6},{3,7}}", "data"),
    ("{{0,2},{1,3},{4,6},{5,7}}", "fsdp"),
    ("[4,2]<=[8]", "tensor"),
    ("[4,2]<=[2,2,2]T(1,2,0)", "data"),
    ("[2,4]<=[2,2,2]T(1,0,2)", "data+tensor"),
    ("mesh['x'=2,'y'=4] {'x'}", "data"),
    ("mesh['x'=2,'y'=4] {'y':(1)2}", "fsdp"),
    ("mesh['x'=2,'y'=4] {'y':(2)2}", "tensor"),
    ("mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'y'}", "data"),
    ("{}", "data+fsdp+tensor"),
  ],
)
def test_axes_are_found_however_xla_writes_groups(groups, axes):
  text = f"""ENTRY %main (s: f32[8]) -> f32[8] {{
  %s = f32[8]{{0}} parameter(0)
  ROOT %r = f32[8]{{0}} all-reduce(%s), replica_groups={groups}, to_apply=%add
}}
"""
  mesh = {"data": 2, "fsdp": 2, "tensor": 2}
  assert list(traffic(text, mesh=mesh)["all-reduce"].by_axes) == [axes]


@pytest.mark.parametrize(
  ("between", "overlaps"),
  [
    ("%f = f32[4]{0} fusion(%s), kind=kLoop, calls=%fused", True),
    ("%b = f32[2,2]{1,0} bitcast(%s)", False),
  ],
)
def test_a_collective_overlaps_with_what_is_computed_until_it_is_done(
  between, overlaps
):
  """What comes after its end, or before another's, does not count."""
  text = f"""ENTRY %main (s: f32[4]) -> f32[8] {{
  %s = f32[4]{{0}} parameter(0)
  %ag = (f32[4]{{0}}, f32[8]{{0}}) all-gather-start(%s), replica_groups={{{{0,1}}}}
  %ag.1 = (f32[4]{{0}}, f32[8]{{0}}) all-gather-start(%s), replica_groups={{{{0,1}}}}
  %d.1 = f32[8]{{0}} all-gather-done(%ag.1)
  {between}
  %d = f32[8]{{0}} all-gather-done(%ag)
  ROOT %g = f32[8]{{0}} fusion(%d), kind=kLoop, calls=%fused
}}
"""
  found = traffic(text)["all-gather"]
  assert (found.bytes, found.overlapped) == (32, 16 * overlaps)


# As libtpu writes a gather that it spreads over two fusions, one of which
# multiplies meanwhile, and sums of which a device keeps a half.
_OF_LIBTPU = """HloModule m, is_scheduled=true

%async_collective_fusion.1 (p: bf16[4,8]) -> (bf16[8,8], u32[]) {
  %p = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %g.1 = bf16[8,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, replica_groups=[2,2]<=[2,2]T(1,0), frontend_attributes={chain_id="3"}
  ROOT %c = (bf16[8,8]{1,0}, u32[]{:S(2)}) custom-call(%g.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.2 (p: bf16[4,8]) -> bf16[8,8] {
  %p = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %x = bf16[8,8]{1,0:T(8,128)(2,1)} convolution(%p, %p), dim_labels=bf_io->bf
  ROOT %g.2 = bf16[8,8]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=7, replica_groups=[2,2]<=[2,2]T(1,0), frontend_attributes={chain_id="3"}
}

%all-reduce-scatter.5.clone.1 (input: bf16[8,8]) -> bf16[4,8] {
  %input = bf16[8,8]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.1 = (bf16[8,8]{1,0:T(8,128)(2,1)}, bf16[8,4]{1,0}) all-reduce(%input, %input), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %s = bf16[4,8]{1,0} dynamic-slice(%all-reduce.1), dynamic_slice_sizes={4,8}
}

ENTRY %main (s: bf16[4,8]) -> bf16[4,8] {
  %s = bf16[4,8]{1,0} parameter(0)
  %f.1 = (bf16[8,8]{1,0}, u32[]) fusion(%s), kind=kCustom, calls=%async_collective_fusion.1
  %f.2 = bf16[8,8]{1,0} fusion(%s), kind=kOutput, calls=%async_collective_fusion.2
  ROOT %r = bf16[4,8]{1,0} fusion(%f.2), kind=kCustom, calls=%all-reduce-scatter.5.clone.1
}
"""


def test_libtpu_s_fusions_of_collectives_count_once_and_as_what_they_are():
  found = traffic(_OF_LIBTPU, mesh={"fsdp": 2, "tensor": 2})
  gathered, summed = 0.5 * 2 * 8 * 8, 0.5 * 2 * (8 * 8 + 8 * 4)
  assert found == {
    "all-gather": Traffic(
      1, gathered, gathered, {"fsdp": gathered}, {"fsdp": gathered}
    ),
    "reduce-scatter": Traffic(1, summed, 0, {"tensor": summed}),
  }


@pytest.mark.parametrize("sharded", [True, False])
def test_of_a_program_that_xla_compiled(eight_devices, sharded):
  """A product over a contracted axis of which each device has a part."""
  where = NamedSharding(eight_devices, P(None, "tensor" if sharded else None))
  x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=where)
  whole = NamedSharding(eight_devices, P())
  done = (
    jax.jit(lambda x: x @ x.T, out_shardings=whole).lower(x).compile().as_text()
  )
  # 16 x 16 floats, summed over two devices.
  expected = {"all-reduce": (1, 2 * 0.5 * 16 * 16 * 4)} if sharded else {}
  found = traffic(done, mesh=eight_devices.shape)
  assert _counts(found) == expected
  assert all(list(x.by_axes) == ["tensor"] for x in found.values())
