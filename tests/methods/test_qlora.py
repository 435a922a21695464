"""Methods over a quantised backbone: equal to those over the floats it stands for; what is refused; what folds."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.bert import quant, weights
from adapters_jax.errors import ConfigError, NotFoldable
from tests.methods.tiny import BACKBONE, THREE, TINY, drawn_model, run

pytestmark = pytest.mark.slow

BATCH = testing.fake_batch(TINY, rows=3)
SLOW = pytest.mark.slow
KIND = pytest.mark.parametrize("kind", quant.KINDS)


@functools.cache
def quantised(kind: str) -> dict:
    return quant.quantise(BACKBONE, kind)[0]


def test_the_preset():
    """qlora.py of the release: all linear layers, r 64, alpha 16, no dropout; LoRA with these values in all else."""
    method = aj.QLoRA()
    assert (method.rank, method.alpha, method.dropout, method.quantize) == (64, 16.0, 0.0, "nf4")
    assert set(method.slots) == {"query", "key", "value", "attn_out", "ffn_in", "ffn_out"}
    recipe = method.recipe
    assert (recipe.optimizer, recipe.lr, recipe.schedule, recipe.warmup) == ("adamw", 2e-4, "constant", 0.03)
    assert (recipe.clip_norm, recipe.weight_decay, recipe.batch_size) == (0.3, 0.0, 16)
    small = aj.QLoRA(rank=4)
    same = aj.LoRA(slots=small.slots, rank=4, alpha=16.0)
    (ours, params), (theirs, _) = drawn_model(small), drawn_model(same)
    np.testing.assert_array_equal(run(ours, params).logits, run(theirs, params).logits)


def test_what_a_job_quantises_to_follows_the_method_inside():
    inside = aj.QLoRA(rank=4)
    for method in (aj.AdapterDrop(inside, drop=1), aj.Frozen(inside), aj.compose(aj.Pfeiffer(), inside)):
        assert method.quantize == "nf4"
    assert aj.LoRA().quantize is None and aj.compose(aj.LoRA(), aj.Pfeiffer()).quantize is None


@pytest.mark.parametrize(
    ("method", "kind", "remat"),
    [
        (aj.QLoRA(rank=4), "nf4", "none"),
        (aj.QLoRA(rank=4), "int8", "none"),
        pytest.param(aj.QLoRA(rank=4), "nf4", "dots", marks=SLOW),
        pytest.param(aj.QLoRA(rank=4), "nf4", "full", marks=SLOW),
        pytest.param(aj.LoRA(rank=4, dora=True), "nf4", "none", marks=SLOW),
        pytest.param(aj.Houlsby(bottleneck=4), "nf4", "none", marks=SLOW),
        pytest.param(aj.AdapterDrop(aj.Pfeiffer(bottleneck=4), robust=True), "nf4", "none", marks=SLOW),
    ],
)
def test_loss_and_gradients_are_those_over_the_dequantised_backbone(method: aj.Method, kind: str, remat: str):
    """By every trained leaf, with dropout; so also those by x, which the leaves of lower layers get."""
    model, params = drawn_model(method, quantised(kind))
    model = dataclasses.replace(model, remat=remat)
    trained, frozen = trees.split(params, model.labels(params))
    plain = frozen | {"backbone": quant.dequantise(frozen["backbone"])}
    loss = lambda trained, frozen: model.loss(trees.join(trained, frozen), BATCH, jax.random.key(3))[0]
    gradient_of = jax.jit(jax.value_and_grad(loss))
    (found, ours), (expected, theirs) = gradient_of(trained, frozen), gradient_of(trained, plain)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert trees.flatten(ours)
    for path, gradient in trees.flatten(ours).items():
        other = np.asarray(trees.flatten(theirs)[path])
        assert np.any(other) or method.name == "adapter_drop", path
        np.testing.assert_allclose(gradient, other, rtol=1e-5, atol=1e-5 * float(np.abs(other).max()), err_msg=path)


@KIND
def test_dora_starts_from_the_norms_of_the_dequantised_kernels(kind: str):
    model = aj.Model(TINY, aj.LoRA(rank=4, dora=True), THREE)
    params = model.init(jax.random.key(0), quantised(kind))
    kernel = np.asarray(quant.dequantise(quantised(kind))["encoder"]["query"]["kernel"])
    magnitude = params["adapters"]["encoder"]["query"]["magnitude"]
    np.testing.assert_allclose(magnitude, np.linalg.norm(kernel, axis=1), rtol=1e-5)


@pytest.mark.parametrize("method", [aj.Full(), aj.TopN(top=1), aj.KAdapter(inner=8, tune_backbone=True)])
def test_methods_that_train_kernels_are_refused(method: aj.Method):
    model = aj.Model(TINY, method, THREE)
    for make in (lambda: model.init(jax.random.key(0), quantised("int8")), lambda: model.summary(quantised("int8"))):
        with pytest.raises(ConfigError) as error:
            make()
        kernel = r"backbone/encoder/\*/\w+/kernel, which is quantised \(int8\)"
        fix = "expected an adapter method or a float backbone"
        assert re.fullmatch(f"method {method.name} trains {kernel}: {fix}", str(error.value))


@KIND
def test_other_leaves_of_the_backbone_can_be_trained(kind: str):
    for method in (aj.BitFit(), aj.LayerNormTuning()):
        model = aj.Model(TINY, method, THREE)
        params = model.init(jax.random.key(0), quantised(kind))
        trained, frozen = trees.split(params, model.labels(params))
        gradient = jax.grad(lambda t, f, m=model: m.loss(trees.join(t, f), BATCH)[0])(trained, frozen)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@KIND
def test_counts_are_those_of_the_floats(kind: str):
    model = aj.Model(TINY, aj.QLoRA(rank=4), THREE)
    assert model.summary(quantised(kind)) == model.summary(BACKBONE)


@KIND
def test_folding_gives_floats_and_going_back_says_what_it_costs(kind: str):
    model, params = drawn_model(aj.compose(aj.LoRA(rank=2), aj.IA3()), quantised(kind))
    plain, folded = model.fold(params)
    assert quant.kind_of(folded["backbone"]) is None
    assert {leaf.dtype for leaf in jax.tree.leaves(folded["backbone"])} == {jnp.dtype("float32")}
    np.testing.assert_allclose(run(plain, folded).logits, run(model, params).logits, rtol=1e-4, atol=1e-5)
    again, errors = quant.quantise(folded["backbone"], kind)
    assert quant.kind_of(again) == kind and len(errors) == 6 * TINY.num_hidden_layers
    back, sent = (trees.to_layers(quant.dequantise(tree)) for tree in (again, folded["backbone"]))
    for path, error in errors.items():
        assert error < 0.3 * float(np.abs(sent[path]).max())
        assert error > 0 or path.split("/")[2] in ("attn_out", "ffn_out")  # what was not changed may come back whole
        np.testing.assert_allclose(np.abs(back[path] - sent[path]).max(), error, rtol=1e-4)


def test_nothing_is_folded_into_quantised_kernels():
    for method in (aj.LoRA(rank=4), aj.QLoRA(rank=4), aj.LoRA(rank=4, dora=True), aj.IA3()):
        _, params = drawn_model(method, quantised("nf4"))
        match = r"backbone/encoder/\w+/kernel is quantised \(nf4\).*expected a float kernel; Model\.fold and quant\."
        with pytest.raises(NotFoldable, match=match):
            method.fold(params["backbone"], params["adapters"])


def large(layers: int) -> aj.BertConfig:
    return aj.BertConfig.tiny(num_hidden_layers=layers, hidden_size=128, intermediate_size=512)


@functools.cache
def temporary_bytes(layers: int, kind: str | None) -> int:
    """Of the compiled gradient: what it needs besides its arguments and results."""
    config = large(layers)
    backbone = weights.initialise(jax.random.key(0), config)
    backbone = backbone if kind is None else quant.quantise(backbone, kind)[0]
    model = aj.Model(config, aj.LoRA(rank=2), THREE)
    params = model.init(jax.random.key(0), backbone)
    trained, frozen = trees.split(params, model.labels(params))
    batch = testing.fake_batch(config, rows=1, length=4)
    loss = lambda trained, frozen: model.loss(trees.join(trained, frozen), batch)[0]
    compiled = jax.jit(jax.value_and_grad(loss)).lower(trained, frozen).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_no_dequantised_kernel_is_kept_for_the_backward_pass():
    """Each layer more costs what it costs with float kernels, its activations: a kernel's bytes would show."""
    kernels = 4 * (4 * 128 * 128 + 2 * 128 * 512)
    base = temporary_bytes(12, None) - temporary_bytes(4, None)
    assert base < kernels
    for kind in quant.KINDS:
        grown = temporary_bytes(12, kind) - temporary_bytes(4, kind)
        assert grown < base + kernels / 20
        assert temporary_bytes(12, kind) < 3 * kernels  # not the 12 of all layers
