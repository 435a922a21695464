"""A compiled training step computes what the method needs and no more: no gradient below the lowest trained leaf."""

import dataclasses

import jax
import pytest

import adapters_jax as aj
from benchmarks import flops
from tests.methods.products import CLASSES, LENGTH, ROWS, needed
from tests.methods.table import PARAMETERS, ROWS_BY_NAME, SHORT_BASE

QUIET = dataclasses.replace(SHORT_BASE, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS("extra"))
def test_compiled_flops(name: str):
    row = ROWS_BY_NAME[name]
    method = row.published
    head = aj.Classification(num_labels=CLASSES, dropout=0.0)
    model = aj.Model(QUIET, method, head, scan_layers=False)
    with jax.numpy_dtype_promotion("standard"):
        found, _ = flops.step_flops(model, ROWS, LENGTH)
    assert 0.98 <= found / needed(method, QUIET, row.extra) <= 1.05
