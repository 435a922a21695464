"""What is read from the text of compiled programs, and FLOPs counted on what JAX traces, against counts by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from adapters_jax.analysis.collectives import Collective, by_axis, collectives
from adapters_jax.analysis.flops import matmul_flops
from adapters_jax.analysis.roofline import Chip, bounds, chip_of, fits
from adapters_jax.errors import ConfigError
from adapters_jax.training.rehearsal import Program

MESH = {"data": 2, "fsdp": 2, "model": 2}

CPU = """
HloModule step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%body (carry: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %carry = (s32[], f32[4,8]) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%carry), index=1
  %all-reduce.1 = f32[4,8]{1,0} all-reduce(%x), channel_id=1, replica_groups=[2,4]<=[2,2,2]T(2,0,1), to_apply=%sum
  ROOT %out = (s32[], f32[4,8]) tuple(%i, %all-reduce.1)
}

%condition (carry: (s32[], f32[4,8])) -> pred[] {
  %carry = (s32[], f32[4,8]) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %limit = s32[] constant(12)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %gathered = bf16[16,8]{1,0} all-gather(%p), channel_id=2, replica_groups={{0,2},{1,3},{4,6},{5,7}}, dimensions={0}
  %both = (f32[3]{0}, /*index=1*/f32[]) all-reduce(%p, %q), channel_id=3, replica_groups=[1,8]<=[8], to_apply=%sum
  %loop = (s32[], f32[4,8]) while(%init), condition=%condition, body=%body
  ROOT %r = f32[4,8]{1,0} get-tuple-element(%loop), index=1
}
"""

TPU = """
HloModule step

%piece.1 (x: bf16[2,4]) -> bf16[4,4] {
  %x = bf16[2,4]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %g = bf16[4,4]{1,0:T(8,128)(2,1)S(1)} all-gather(%x), channel_id=7, replica_groups=mesh['a'=4,'b'=2] {'b'}
}

%piece.2 (x: bf16[2,4]) -> bf16[4,4] {
  %x = bf16[2,4]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %g = bf16[4,4]{1,0:T(8,128)(2,1)S(1)} all-gather(%x), channel_id=7, replica_groups=mesh['a'=4,'b'=2] {'b'}
}

ENTRY %main (x: bf16[2,4]) -> bf16[4,4] {
  %x = bf16[2,4]{1,0} parameter(0)
  %one = bf16[4,4]{1,0} fusion(%x), kind=kLoop, calls=%piece.1
  %two = bf16[4,4]{1,0} fusion(%x), kind=kLoop, calls=%piece.2
  %s = (f32[4], f32[8]) all-gather-start(%v), channel_id=8, replica_groups=mesh['a'=2,'b'=4], device_ids=([2,4]) {'a'}
  %d = f32[8]{0} all-gather-done(%s)
  ROOT %scattered = f32[8]{0} reduce-scatter(%w), channel_id=9, replica_groups={{0,1}}, dimensions={0}, to_apply=%sum
}
"""


def test_groups_loops_and_tuples():
    found = collectives(CPU, MESH)
    assert found == [
        Collective("all-reduce", ("data", "fsdp"), 4, 4 * 8 * 4, 12),
        Collective("all-gather", ("fsdp",), 2, 16 * 8 * 2, 1),
        Collective("all-reduce", ("data", "fsdp", "model"), 8, 16, 1),
    ]
    assert by_axis(found)["all-reduce", "data+fsdp"] == (12, 1536)
    assert found[0].sent == (2 * 3 / 4 * 1536, 0)
    # Two slices: reduced within each, halves exchanged, gathered within each.
    two = collectives(CPU, MESH, slices=2)
    assert [one.slices for one in two] == [2, 1, 2]
    assert two[0].sent == (2 * 1 / 2 * 1536, 2 * 1 / 2 * 1536 / 2)


def test_pieces_of_one_exchange_count_once():
    assert collectives(TPU, MESH) == [
        Collective("reduce-scatter", ("model",), 2, 64, 1),
        Collective("all-gather", ("model",), 2, 32, 1),
        Collective("all-gather", ("data",), 2, 32, 1),
    ]


RUNNING_BESIDE = """
HloModule step

ENTRY %main (x: f32[64]) -> f32[64] {
  %g = ((f32[64]{0}, f32[32]{0}), (f32[128]{0}, f32[64]{0})) all-gather-start(%x), channel_id=1, replica_groups={{0,1}}
  %r = ((f32[512]{0}), f32[64]{0}, u32[]) reduce-scatter-start(%x), channel_id=2, replica_groups={{0,1,2,3,4,5,6,7}}
  %t = (f32[64]{0}, f32[64]{0}, u32[]) all-to-all-start(%x), channel_id=3, replica_groups={{0,4}}
  %a = (f32[64]{0}, f32[2]{0}) all-reduce-start(%x, %y), channel_id=4, replica_groups={{0,1,2,3,4,5,6,7}}
  %p = (f32[8]{0}, f32[8]{0}, u32[]) collective-permute-start(%x), channel_id=5, source_target_pairs={{0,0},{1,3}}
  %q = f32[8]{0} collective-permute(%x), channel_id=6, source_target_pairs={{0,0},{1,1}}
  ROOT %d = f32[64]{0} all-gather-done(%g)
}
"""


def test_exchanges_that_run_beside_others():
    found = {one.kind: (one.axes, one.bytes) for one in collectives(RUNNING_BESIDE, MESH)}
    assert found == {
        "all-gather": (("model",), 4 * (128 + 64)),
        "reduce-scatter": (("data", "fsdp", "model"), 4 * 64 * 8),
        "all-to-all": (("data",), 4 * 64),
        "all-reduce": (("data", "fsdp", "model"), 4 * (64 + 2)),
        "collective-permute": (("fsdp",), 4 * 8),
    }


BETWEEN_SLICES = """
ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %all-reduce.1 = f32[4,8]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%sum
  %send.1 = (bf16[4,8]{1,0:T(8,128)(2,1)}, u32[], token[]) send(%y, %after), channel_id=2, is_host_transfer=true, HOW
  %recv.1 = (bf16[4,8]{1,0:T(8,128)(2,1)}, token[]) recv(%after), channel_id=1, is_host_transfer=true, HOW
  ROOT %send-done.1 = token[] send-done(%send.1), channel_id=2, is_host_transfer=true
}
""".replace(
    "HOW", 'frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}'
)


def test_what_hosts_exchange_between_slices():
    found = collectives(BETWEEN_SLICES, MESH, slices=2)
    assert found == [
        Collective("all-reduce", ("fsdp", "model"), 4, 128, 1),
        Collective("all-reduce", ("data",), 2, 64, 1, slices=2),
    ]
    assert found[1].sent == (0, 64)
    assert by_axis(found).keys() == {("all-reduce", "fsdp+model"), ("all-reduce", "data between slices")}


@pytest.mark.parametrize(
    ("growth", "turns"),
    [
        ("%two = s32[]{:T(128)} constant(2)\n  %next = s32[] add(%i, %two)", 3),
        ("%next = s32[] fusion(%i), kind=kLoop, calls=%grown", 2),
        ("%next = s32[] add(%i, %unknown)", 6),
    ],
)
def test_a_counter_that_grows_by_more_than_one(growth: str, turns: int):
    text = f"""
%grown (i: s32[]) -> s32[] {{
  %i = s32[] parameter(0)
  %three = s32[] constant(3)
  ROOT %sum = s32[] add(%i, %three)
}}

%body (carry: (f32[8], s32[])) -> (f32[8], s32[]) {{
  %i = s32[] get-tuple-element(%carry), index=1
  {growth}
  %moved = f32[8]{{0}} collective-permute(%x), channel_id=1, source_target_pairs={{{{0,1}},{{1,0}}}}
  ROOT %out = (f32[8], s32[]) tuple(%moved, /*index=1*/%next)
}}

%condition (carry: (f32[8], s32[])) -> pred[] {{
  %i = s32[] get-tuple-element(%carry), index=1
  %limit = s32[] constant(6)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}}

ENTRY %main (p: f32[8]) -> f32[8] {{
  ROOT %loop = (f32[8], s32[]) while(%init), condition=%condition, body=%body
}}
"""
    assert [one.times for one in collectives(text, MESH)] == [turns]


def test_exchanges_that_a_program_asks_for_share_a_channel():
    line = '  %{0} = f32[64] all-to-all(%x), channel_id=1, replica_groups={{{{0,1}}}}, metadata={{op_name="{1}"}}\n'
    text = "ENTRY %main (x: f32[64]) -> f32[64] {\n"
    text += "".join(line.format(*each) for each in (("a", "jvp"), ("b", "transpose"), ("c", "jvp"))) + "}\n"
    assert [one.bytes for one in collectives(text, MESH)] == [256, 256]


def test_products_are_counted_as_often_as_they_happen():
    def forward(w, x):
        h, _ = jax.lax.scan(lambda h, own: (jnp.tanh(h @ own), None), x, w)
        return jnp.sum(jax.lax.cond(h[0, 0] > 0, lambda h: h @ w[0], lambda h: h, h))

    w, x = jnp.ones((5, 8, 8)), jnp.ones((3, 8))
    one = 2 * 3 * 8 * 8
    assert matmul_flops(forward, w, x) == 6 * one
    # Backward: a product for the input and one for the weight, of five and of the one that the condition chooses.
    assert matmul_flops(jax.grad(forward), w, x) == pytest.approx(18 * one, rel=0.1)


def test_what_bounds_a_step():
    chip = Chip(memory=100, flops=10.0, bandwidth=100.0, links=20.0, network=5.0)
    one, other = Collective("all-reduce", ("data",), 4, 1000, 1), Collective("all-gather", ("fsdp",), 4, 1000, 2)
    sent = (one, other)
    program = Program(8, 8, flops=800, peak=90, temporary=150, touched=700, collectives=sent, seconds=0.0)
    assert bounds(program, 8, chip) == {"compute": 10, "memory": 10, "links": (1500 + 1500) / 20, "network": 0}
    over = bounds(dataclasses.replace(program, collectives=(dataclasses.replace(one, slices=2), other)), 8, chip)
    assert (over["links"], over["network"]) == ((1000 + 1500) / 20, 500 / 5)
    assert fits(program, chip) and not fits(dataclasses.replace(program, peak=101), chip)
    with pytest.raises(ConfigError, match="unknown chip 'v9'"):
        chip_of("v9:2x2")
