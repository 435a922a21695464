"""BitFit, LayerNorm tuning and top-n: which leaves are trained. Bad values of every method, before any compilation."""

import jax
import pytest

import adapters_jax as aj
from adapters_jax import trees
from adapters_jax.bert import weights
from adapters_jax.errors import ConfigError, NotFoldable
from tests.methods.tiny import TINY

THREE = aj.Classification(num_labels=3)


def trained(method: aj.Method) -> set[str]:
    model = aj.Model(TINY, method, THREE)
    params = model.init(jax.random.key(0), weights.initialise(jax.random.key(1), TINY))
    return set(trees.to_layers({"backbone": trees.split(params, model.labels(params))[0]["backbone"]}))


def test_bitfit_trains_every_bias_or_the_chosen_ones():
    every = {row.path for row in weights.numbered(TINY) if row.path.endswith("bias")}
    assert trained(aj.BitFit()) == {f"backbone/{path}" for path in every}
    assert trained(aj.BitFit(biases=("query", "pooler"))) == {
        *(f"backbone/encoder/{layer}/query/bias" for layer in range(3)),
        "backbone/pooler/bias",
    }


def test_layernorm_trains_every_layer_norm_or_those_of_layers():
    every = {row.path for row in weights.numbered(TINY) if "norm/" in row.path}
    assert trained(aj.LayerNormTuning()) == {f"backbone/{path}" for path in every}
    assert trained(aj.LayerNormTuning(layers=(1,))) == {
        f"backbone/encoder/1/{norm}/{leaf}" for norm in ("attn_norm", "ffn_norm") for leaf in ("scale", "bias")
    }


@pytest.mark.parametrize("top", [0, 1, 3])
def test_top_n_trains_whole_layers_and_the_pooler(top: int):
    rows = [row.path for row in weights.numbered(TINY)]
    layers = tuple(f"encoder/{layer}/" for layer in range(3 - top, 3))
    expected = {path for path in rows if path.startswith((*layers, "pooler/"))}
    assert trained(aj.TopN(top=top)) == {f"backbone/{path}" for path in expected}
    assert not any("pooler" in path for path in trained(aj.TopN(top=top, pooler=False)))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: aj.Pfeiffer(bottleneck=0), "method.bottleneck: expected a whole number of at least 1, got 0"),
        (
            lambda: aj.Lin(reduction_factor=0.0),
            "method.reduction_factor: expected a finite number of at least 0.001, got 0",
        ),
        (lambda: aj.Lin(reduction_factor=32.0), "method.reduction_factor: expected at most 16, got 32"),
        (lambda: aj.Parallel(activation="swich"), "unknown activation 'swich'.*did you mean 'swish'"),
        (lambda: aj.Parallel(slots=("ffn_marge",)), "unknown slots 'ffn_marge'.*did you mean 'ffn_merge'"),
        (lambda: aj.Houlsby(slots=()), "method.slots: expected some of attn_merge, ffn_merge, each once"),
        (lambda: aj.Houlsby(insertion="side"), "method.insertion: unknown insertion 'side'"),
        (lambda: aj.Houlsby(layers=(0, 3)), r"method.layers: expected some of 0 to 2, each once, got \(0, 3\)"),
        (lambda: aj.Houlsby(layers=()), "method.layers: expected some of 0 to 2"),
        (lambda: aj.Houlsby(sizes=(4, 4)), "method.sizes: expected 3 widths, one for each layer, got 2"),
        (lambda: aj.Houlsby(sizes=(0, 0, 0)), "method.sizes: expected a width for each layer"),
        (lambda: aj.Houlsby(inner_layers=-1), "method.inner_layers"),
        (lambda: aj.ScaledParallel(scale=float("nan")), "method.scale: expected a finite number above 0, got nan"),
        (
            lambda: aj.Lin(reduction_factor=1e-310),
            "method.reduction_factor: expected a finite number of at least 0.001",
        ),
        (lambda: aj.Pfeiffer(invertible=True, invertible_factor=1e-310), "method.invertible_factor: expected a finite"),
        (lambda: aj.Prompt(init_tokens=("9" * 5000,)), "method.init_tokens: expected ids"),
        (
            lambda: aj.MAM(prefix_bottleneck=-1),
            "method.prefix_bottleneck: expected a whole number of at least 0, got -1",
        ),
        (lambda: aj.BitFit(biases=("quary",)), "unknown biases 'quary'.*did you mean 'query'"),
        (lambda: aj.LayerNormTuning(layers=(5,)), "method.layers"),
        (lambda: aj.TopN(top=4), "method.top: expected at most 3 layers, got 4"),
        (lambda: aj.TopN(top=-1), "method.top: expected a whole number of at least 0, got -1"),
        (lambda: aj.LoRA(rank=17), "method.rank: expected at most 16"),
        (lambda: aj.LoRA(slots=("queue",)), "unknown slots 'queue'"),
        (lambda: aj.LoRA(layers=(7,)), "method.layers"),
        (lambda: aj.IA3(slots=("pooler",)), "unknown slots 'pooler'"),
        (lambda: aj.Prefix(length=0), "method.length: expected a whole number of at least 1, got 0"),
        (lambda: aj.Prefix(length=62, position_offset=True), "method.length: expected at most 61"),
        (lambda: aj.PTuningV2(length=64), "method.length: expected at most 61"),
        (lambda: aj.Prompt(length=63), "method.length: expected at most 61"),
        (lambda: aj.MAM(length=0), "method.length"),
        (lambda: aj.UniPELT(rank=17), "method.rank: expected at most 16"),
    ],
)
def test_bad_values_are_one_clear_line_before_anything_compiles(make, match, monkeypatch):
    monkeypatch.setattr(jax, "jit", lambda *args, **kwargs: pytest.fail("compiles"))
    with pytest.raises(ConfigError, match=match) as error:
        aj.Model(TINY, make(), THREE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", [aj.Houlsby(), aj.Prefix(length=3), aj.Prompt(length=3), aj.Lin(), aj.UniPELT()])
def test_what_does_not_fold_says_so(method: aj.Method):
    with pytest.raises(NotFoldable, match="cannot be folded into the backbone: ") as error:
        method.fold({}, {"encoder": {}, "prefix": {"prefix": {}}})
    assert "\n" not in str(error.value)
