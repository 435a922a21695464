"""What is read from the text of compiled programs, and FLOPs counted on what JAX traces, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from adapters_jax.analysis.collectives import Collective, by_axis, collectives
from adapters_jax.analysis.flops import matmul_flops
from adapters_jax.analysis.roofline import CHIPS, bounds, chip_of
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
    assert found[0].sent == 2 * 3 / 4 * 1536


def test_pieces_of_one_exchange_count_once():
    assert collectives(TPU, MESH) == [
        Collective("reduce-scatter", ("model",), 2, 64, 1),
        Collective("all-gather", ("model",), 2, 32, 1),
        Collective("all-gather", ("data",), 2, 32, 1),
    ]


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
    sent = (Collective("all-reduce", ("data",), 4, 10**9, 1), Collective("all-gather", ("fsdp",), 4, 10**9, 1))
    program = Program(8, 8, 8 * 10**14, 10**9, 10**9, sent, 0.0)
    found = bounds(program, 10**9, 8, CHIPS["v5e"])
    assert found["compute"] == pytest.approx(1e14 / 197e12)
    assert found["memory"] == pytest.approx(4e9 / 819e9)
    assert found["links"] == pytest.approx((1.5e9 + 0.75e9) / 100e9)
    over = bounds(program, 10**9, 8, CHIPS["v5e"], slices=2)
    assert over["links"] == pytest.approx(1.5e9 / 6.25e9 + 0.75e9 / 100e9)
    with pytest.raises(ConfigError, match="unknown chip 'v9'"):
        chip_of("v9:2x2")
