"""The masked-LM head against numpy and torch, its loss and answers, its cost, and the heads that checkpoints bring."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.bert import convert, weights
from adapters_jax.bert.backbone import weight_files
from adapters_jax.bert.heads import Surroundings
from adapters_jax.bert.heads.masking import quota
from adapters_jax.errors import BackboneError, ConfigError, DataError
from parity import peers, recipe
from tests.methods import numpy_bert
from tests.methods.tiny import BACKBONE, TINY, drawn

HEAD = aj.MaskedLM(mask_id=4, vocab_size=TINY.vocab_size)
LOGITS = 1e-5  # of the norm, in float32


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.default_matmul_precision("highest"):
        yield


def build(method, head=HEAD, backbone=BACKBONE, config=TINY):
    model = aj.Model(config, method, head)
    own = {part: tree for part, tree in model.abstract(backbone).items() if part != "backbone"}
    return model, {"backbone": backbone} | drawn(own, 1)


def batch_of(rows=4, length=24, seed=0) -> dict:
    """A batch with the arrays of masked training, every inner token a word."""
    batch = dict(testing.fake_batch(TINY, rows, length, seed))
    inner = np.asarray(batch["mask"]) * (np.arange(length) > 0)
    words = np.where(inner, np.cumsum(inner, 1), 0).astype(np.int32)
    batch |= {"words": words, "row": np.arange(rows, dtype=np.int32)}
    return batch | {"weight": np.array([quota(int((row > 0).sum())) for row in words], np.float32)}


def plain(batch) -> dict:
    return {name: batch[name] for name in ("input_ids", "token_type_ids", "mask")}


def erf_gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def head_in_numpy(params, hidden, invert=lambda x: x):
    """The logits of one row's tokens, in float64."""
    head = {path: np.asarray(leaf, np.float64) for path, leaf in trees.flatten(params["head"]).items()}
    x = erf_gelu(hidden @ head["dense/kernel"] + head["dense/bias"])
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + TINY.layer_norm_eps)
    x = invert(x * head["norm/scale"] + head["norm/bias"])
    words = np.asarray(params["backbone"]["embeddings"]["words"], np.float64)
    return x @ words.T + head["decoder/bias"]


def test_the_tree():
    model = aj.Model(TINY, aj.HeadOnly(), HEAD)
    shapes = {path: leaf.shape for path, leaf in trees.flatten(model.abstract(BACKBONE)["head"]).items()}
    assert shapes == {
        "dense/kernel": (16, 16),
        "dense/bias": (16,),
        "norm/scale": (16,),
        "norm/bias": (16,),
        "decoder/bias": (128,),
    }
    without = aj.Model(TINY, aj.HeadOnly(), HEAD).abstract(weights.abstract(TINY, pooler=False))
    assert "pooler" not in without["head"]


def test_logits_of_all_places_of_a_plain_batch():
    model, params = build(aj.HeadOnly())
    batch = plain(batch_of())
    output = jax.jit(model.apply)(params, batch)
    assert output.logits.shape == (4, 24, 128)
    assert output.logits.dtype == jnp.float32
    np.testing.assert_array_equal(output.pooled, output.hidden[:, 0])
    expected = [head_in_numpy(params, hidden) for hidden in numpy_bert.forward(params["backbone"], TINY, batch)]
    for ours, theirs, mask in zip(np.asarray(output.logits), expected, np.asarray(batch["mask"]), strict=True):
        np.testing.assert_allclose(ours[mask == 1], theirs, rtol=1e-4, atol=1e-4)


def test_the_coupling_is_undone_before_the_decoder():
    """Pfeiffer et al. (2020): the inverse of the embeddings' coupling stands between transform and decoder."""
    model, params = build(aj.Pfeiffer(bottleneck=4, invertible=True))
    batch = plain(batch_of())
    output = jax.jit(model.apply)(params, batch)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["adapters"]["embed"])
    dense = lambda p, x: x @ p["kernel"] + p["bias"]
    half = lambda name, x: dense(p[name]["up"], np.maximum(dense(p[name]["down"], x), 0))

    def invert(y):
        second = y[:, 8:] - half("g", y[:, :8])
        return np.concatenate([y[:, :8] - half("f", second), second], 1)

    for row, mask in enumerate(np.asarray(batch["mask"])):
        hidden = np.asarray(output.hidden[row], np.float64)[mask == 1]
        expected = head_in_numpy(params, hidden, invert)
        np.testing.assert_allclose(np.asarray(output.logits[row])[mask == 1], expected, rtol=1e-4, atol=1e-4)
        assert abs(head_in_numpy(params, hidden) - expected).max() > 0.1


@pytest.mark.parametrize("key", [None, jax.random.key(5)], ids=("evaluation", "training"))
def test_the_chosen_places_of_a_masked_batch(key):
    """The logits are those that the plain head gives at these places, once the words are hidden."""
    config = aj.BertConfig.tiny(num_hidden_layers=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model, params = build(aj.Pfeiffer(bottleneck=4), config=config)
    batch = batch_of()
    logits = model.apply(params, batch, key).logits
    shown = HEAD.prepare(batch, None if key is None else trees.fold_path(key, "prepare"))
    whole = model.apply(params, plain(shown)).logits
    assert logits.shape == (4, quota(24), 128)
    np.testing.assert_allclose(logits, jnp.take_along_axis(whole, shown["positions"][..., None], 1), atol=1e-5)
    assert (np.asarray(shown["input_ids"]) != np.asarray(batch["input_ids"])).any()


def test_loss_and_answers_are_sums_over_the_chosen_tokens():
    model, params = build(aj.Pfeiffer(bottleneck=4))
    batch = batch_of()
    shown = HEAD.prepare(batch, None)
    logits = np.asarray(model.apply(params, batch).logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen, targets = np.asarray(shown["chosen"]), np.asarray(shown["targets"])
    own = np.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    lost = np.where(chosen, -own, 0)
    first = (chosen & (logits.argmax(-1) == targets)).sum(1)
    answers = jax.jit(model.answers)(params, {k: v for k, v in batch.items() if k not in ("weight", "labels")})
    np.testing.assert_allclose(answers, np.stack([lost.sum(1), chosen.sum(1), first], 1), rtol=1e-4)
    total, weight = (float(part) for part in model.loss(params, batch))
    assert weight == chosen.sum() == batch["weight"].sum()
    np.testing.assert_allclose(total / weight, lost.sum() / chosen.sum(), rtol=1e-4)
    decoded = HEAD.decode(np.asarray(answers))
    assert [row["hidden"] for row in decoded] == chosen.sum(1).tolist()
    assert [row["found"] for row in decoded] == first.tolist()
    np.testing.assert_allclose([row["log_likelihood"] for row in decoded], -lost.sum(1) / chosen.sum(1), rtol=1e-4)


def test_padding_rows_count_nothing():
    model, params = build(aj.HeadOnly())
    batch = batch_of()
    padded = {name: np.concatenate([np.asarray(leaf), np.zeros_like(leaf[:1])]) for name, leaf in batch.items()}
    padded["row"][-1], padded["mask"][-1, 0] = -1, 1
    for ours, theirs in zip(model.loss(params, padded), model.loss(params, batch), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert HEAD.answers(model.apply(params, padded).logits, HEAD.prepare(padded, None))[-1].tolist() == [0, 0, 0]


def test_gradients_reach_every_adapter_and_the_head():
    model, params = build(aj.Pfeiffer(bottleneck=4, invertible=True))
    trained, frozen = trees.split(params, model.labels(params))
    batch = batch_of()
    loss = lambda trained: model.loss(trees.join(trained, frozen), batch, jax.random.key(0))[0]
    found = trees.to_layers(jax.jit(jax.grad(loss))(trained))
    assert {path.split("/")[0] for path in found} == {"adapters", "head"}
    assert not [path for path, leaf in found.items() if not np.abs(leaf).max() > 1e-6]


def test_the_decoder_is_tied():
    """Where a method trains the word embeddings, words that stand nowhere in the text get a gradient too."""
    model, params = build(aj.Full())
    batch = batch_of()
    embeddings = params["backbone"]["embeddings"]
    given = lambda words: params | {"backbone": params["backbone"] | {"embeddings": embeddings | {"words": words}}}
    loss = lambda words: model.loss(given(words), batch)[0]
    gradient = jax.jit(jax.grad(loss))(embeddings["words"])
    assert (np.abs(gradient).max(1) > 0).all()


def test_only_chosen_places_go_through_the_decoder():
    batch = batch_of(8, 64)
    shown = HEAD.prepare(batch, None)
    shapes = {"words": jax.ShapeDtypeStruct((2000, 64), jnp.float32)}
    own = HEAD.initialise(jax.random.key(0), aj.BertConfig.tiny(vocab_size=2000, hidden_size=64), False)

    def flops(batch) -> float:
        def run(words, hidden):
            return HEAD(own, hidden, Surroundings({"embeddings": words}, batch))[0]

        hidden = jax.ShapeDtypeStruct((8, 64, 64), jnp.float32)
        return jax.jit(run).lower(shapes, hidden).compile().cost_analysis()["flops"]

    assert quota(64) == 10
    assert flops(shown) / flops(plain(shown)) == pytest.approx(10 / 64, rel=0.02)


def test_an_ensemble_s_likelihood_is_the_mean():
    model, params = build(aj.Prompt(length=2, ensemble=3))
    logits = np.asarray(model.apply(params, plain(batch_of())).logits, np.float64)
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1, rtol=1e-4)
    answers = jax.jit(model.answers)(params, batch_of())
    assert answers.shape == (4, 3) and np.isfinite(answers).all()
    assert np.isfinite(model.loss(params, batch_of(), jax.random.key(0))[0])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="expected mask_id to be one of vocab_size entries, got 200 and 128"):
        aj.MaskedLM(mask_id=200, vocab_size=128)
    with pytest.raises(ConfigError, match="hidden_act must be one of"):
        aj.MaskedLM(hidden_act="tanh")
    for wrong in (
        dict(hidden_act="relu", mask_id=4, vocab_size=128),
        dict(),
        dict(layer_norm_eps=1e-5, mask_id=4, vocab_size=128),
    ):
        with pytest.raises(ConfigError, match=r"as the backbone has.*use MaskedLM.of\(backbone\)"):
            aj.Model(TINY, aj.HeadOnly(), aj.MaskedLM(**wrong)).abstract(BACKBONE)
    model, params = build(aj.HeadOnly())
    with pytest.raises(DataError, match="masked_lm: expected batches with the arrays row and words, got input_ids"):
        model.loss(params, testing.fake_batch(TINY))


def test_the_head_of_a_backbone(tmp_path: Path):
    backbone = testing.tiny_backbone(tmp_path)
    assert aj.MaskedLM.of(backbone, whole_word=True) == aj.MaskedLM(4, len(backbone.tokenizer), True)
    backbone.tokenizer.mask_token = None
    with pytest.raises(ConfigError, match="expected a tokenizer with a mask token"):
        aj.MaskedLM.of(backbone)


@pytest.fixture(scope="module")
def released() -> tuple[aj.Backbone, dict]:
    """The small released masked language model, and its own head."""
    backbone = aj.load_backbone(str(recipe.case("mlm").folder))
    head = convert.read_masked_lm(weight_files(backbone.folder), backbone.config)
    assert head is not None
    return backbone, head


@pytest.mark.parametrize("adapted", [False, True], ids=("plain", "nice"))
def test_a_released_head_gives_the_logits_of_torch(released, golden: Path, adapted):
    backbone, own = released
    head = aj.MaskedLM(hidden_act=backbone.config.hidden_act, layer_norm_eps=backbone.config.layer_norm_eps)
    method = aj.Pfeiffer(reduction_factor=16.0, invertible=True) if adapted else aj.HeadOnly()
    model = aj.Model(backbone.config, method, head)
    template = model.abstract(backbone.params)
    shapes = {
        name: leaf.shape if name == path else leaf.shape[1:]
        for path, leaf in trees.flatten({"adapters": template["adapters"]}).items()
        for name in trees.layer_paths(path, leaf)
    }
    flat = {path: peers.value(path, shape) for path, shape in shapes.items()}
    adapters = trees.from_layers(flat, {"adapters": template["adapters"]})["adapters"]
    params = {"backbone": backbone.params, "adapters": adapters, "head": own}
    stored = recipe.load(golden / "mlm.npz")
    for number, batch in enumerate(recipe.batches(backbone.config.vocab_size)):
        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "mask")}
        logits = np.asarray(jax.jit(model.apply)(params, inputs).logits)[batch["mask"] == 1]
        name = f"masked_lm_nice/{number}" if adapted else f"masked_lm/{number}"
        assert recipe.relative_error(stored, name, logits) <= LOGITS
        assert recipe.absolute_error(stored, name, logits) <= 10 * LOGITS


def with_head(folder: Path, **changes) -> Path:
    """A tiny checkpoint with a masked-LM head of ones and more."""
    testing.write_backbone(folder)
    tensors = dict(load_file(folder / "model.safetensors"))
    tensors |= {
        "cls.predictions.transform.dense.weight": np.arange(256, dtype=np.float32).reshape(16, 16),
        "cls.predictions.transform.dense.bias": np.ones(16, np.float32),
        "cls.predictions.transform.LayerNorm.weight": np.full(16, 2, np.float32),
        "cls.predictions.transform.LayerNorm.bias": np.full(16, 3, np.float32),
        "cls.predictions.bias": np.full(128, 4, np.float32),
    }
    words = tensors["embeddings.word_embeddings.weight"]
    for name, change in changes.items():
        tensors["cls.predictions." + name.replace("__", ".")] = change(words)
    save_file(tensors, folder / "model.safetensors")
    return folder


def read(folder: Path):
    return convert.read_masked_lm(weight_files(folder), TINY)


def test_heads_that_checkpoints_bring(tmp_path: Path):
    head = trees.flatten(read(with_head(tmp_path / "own")))
    np.testing.assert_array_equal(head["dense/kernel"], np.arange(256, dtype=np.float32).reshape(16, 16).T)
    assert [head[name].mean() for name in ("dense/bias", "norm/scale", "norm/bias", "decoder/bias")] == [1, 2, 3, 4]
    assert read(testing.write_backbone(tmp_path / "none")) is None
    assert read(with_head(tmp_path / "tied", decoder__weight=lambda words: words)) is not None
    assert read(with_head(tmp_path / "untied", decoder__weight=lambda words: words + 1)) is None
    aj.load_backbone(str(tmp_path / "own"))  # the encoder's own reader passes it over
    with pytest.raises(BackboneError, match=r"cls.predictions.bias is \[5\], expected \[128\]"):
        read(with_head(tmp_path / "short", bias=lambda words: np.zeros(5, np.float32)))
    with pytest.raises(BackboneError, match="cls.predictions.bias holds values that are not finite"):
        read(with_head(tmp_path / "nan", bias=lambda words: np.full(128, np.nan, np.float32)))
