"""What freezing saves is really saved: counted on compiled programs, of a small model."""

import pytest

import adapters_jax as aj
from benchmarks import flops

CONFIG = aj.BertConfig(
    vocab_size=128,
    hidden_size=128,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=512,
    max_position_embeddings=64,
)


@pytest.fixture(scope="module")
def counted() -> dict[str, float]:
    found = flops.measure(CONFIG, aj.Houlsby(bottleneck=8), rows=4, length=32)
    return {name: values["flops"] for name, values in found.items()}


@pytest.mark.parametrize("step", ["step", "full tree, frozen by labels"])
def test_no_frozen_gradient_is_computed(counted: dict[str, float], step: str):
    assert counted[step] <= 1.05 * counted["adapters only"]


def test_a_houlsby_step_is_cheaper_than_full_fine_tuning(counted: dict[str, float]):
    # 3 layers spare less than 12: nothing is back-propagated below the first layer but its LayerNorm.
    assert counted["step"] <= 0.78 * counted["full fine-tuning"]


@pytest.mark.slow
def test_layers_left_out_are_not_differentiated():
    """BERT-base, 5 of 12 layers: a forward pass of 12 and a backward pass of 7, where all are 24: 0.79."""
    step = lambda drop: flops.step_flops(base_model(aj.AdapterDrop(aj.Pfeiffer(), drop=drop)), rows=2, length=32)[0]
    assert step(5) <= 0.81 * step(0)


def base_model(method: aj.Method) -> aj.Model:
    return aj.Model(aj.BertConfig.base(), method, aj.Classification(num_labels=3), scan_layers=False)
