"""RoBERTa, XLM-R, DistilBERT, ELECTRA and multilingual BERT against transformers, from files that it wrote."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.bert import convert, encoder, weights
from adapters_jax.bert.backbone import weight_files
from adapters_jax.bert.pieces import pieces
from adapters_jax.data.source import Features, ListSource
from adapters_jax.data.text import pack
from adapters_jax.data.tokenize import encode
from adapters_jax.errors import BackboneError, ConfigError
from adapters_jax.slots import Context, Slots
from parity.encoders_texts import FAMILIES, PAIRS, TEXTS

EVERY = pytest.mark.parametrize("family", FAMILIES)
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def strict():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def folder(golden: Path, family: str) -> Path:
    return golden / "encoders" / family


@pytest.fixture
def vectors(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "golden.npz") as stored:
        return dict(stored)


def batch_of(vectors: dict, number: int) -> dict:
    names = {"input_ids": "input_ids", "token_type_ids": "token_type_ids", "attention_mask": "mask"}
    return {ours: vectors[f"{number}/{name}"] for name, ours in names.items() if f"{number}/{name}" in vectors}


def close(found, expected) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@EVERY
def test_hidden_states_equal_transformers(folder: Path, family: str, vectors: dict):
    backbone = aj.load_backbone(str(folder))
    assert backbone.has_pooler == (family == "bert-multilingual")
    model = aj.Model(backbone.config, aj.HeadOnly(), aj.NoHead())
    params = model.init(jax.random.key(0), backbone.params)
    for number in (0, 1):
        batch = batch_of(vectors, number)
        found = model.apply(params, batch, hidden_states=True).hidden_states
        assert len(found) == backbone.config.num_hidden_layers + 1
        for layer, hidden in enumerate(found):
            close(hidden[batch["mask"] == 1], vectors[f"{number}/hidden/{layer}"])


@EVERY
def test_the_masked_lm_head_of_a_release_is_read(folder: Path, family: str, vectors: dict):
    backbone = aj.load_backbone(str(folder))
    head = convert.read_masked_lm(weight_files(folder), backbone.config)
    assert head is not None
    model = aj.Model(backbone.config, aj.HeadOnly(), aj.MaskedLM.of(backbone))
    params = model.init(jax.random.key(0), backbone.params)
    assert jax.tree.map(jnp.shape, params["head"]) == jax.tree.map(jnp.shape, head)
    for number in (0, 1):
        batch = batch_of(vectors, number)
        logits = model.apply(params | {"head": head}, batch).logits
        close(logits[batch["mask"] == 1], vectors[f"{number}/masked_lm"])


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_the_released_classifier_is_our_pooler_and_classifier(folder: Path, family: str, vectors: dict):
    backbone = aj.load_backbone(str(folder))
    model = aj.Model(backbone.config, aj.HeadOnly(), aj.Classification(num_labels=3))
    params = model.init(jax.random.key(0), backbone.params)
    part = lambda name: {
        "kernel": jnp.asarray(vectors[f"classifier/{name}.weight"].T, jnp.float32),
        "bias": jnp.asarray(vectors[f"classifier/{name}.bias"], jnp.float32),
    }
    head = {"pooler": part("dense"), "classifier": part("out_proj")}
    assert jax.tree.map(jnp.shape, params["head"]) == jax.tree.map(jnp.shape, head)
    for number in (0, 1):
        close(model.apply(params | {"head": head}, batch_of(vectors, number)).logits, vectors[f"{number}/logits"])


@EVERY
def test_texts_become_the_ids_of_the_familys_tokenizer(folder: Path, family: str, vectors: dict):
    """Ids, masks, padding and token types; what a family has no types for is fed none of it."""
    tokenizer = aj.load_backbone(str(folder)).tokenizer
    rows = [{"text": text} for text in TEXTS], [{"text": a, "text_pair": b} for a, b in PAIRS]
    for number, given in enumerate(rows):
        expected = batch_of(vectors, number)
        columns = tuple(given[0])
        encoded = encode(ListSource(given, Features(columns)), tokenizer, 38)
        batch = encoded.batch(np.arange(len(given)), expected["mask"].shape[1])
        for name, array in expected.items():
            np.testing.assert_array_equal(batch[name], array, err_msg=name)


@EVERY
def test_the_last_position_can_be_used_and_no_more(folder: Path, family: str):
    backbone = aj.load_backbone(str(folder))
    model = aj.Model(backbone.config, aj.HeadOnly(), aj.NoHead())
    assert model.max_length == (38 if "roberta" in family else 40)
    prompt = aj.Model(backbone.config, aj.Prompt(length=5), aj.NoHead())
    assert prompt.max_length == model.max_length - 5
    params = model.init(jax.random.key(0), backbone.params)
    ids = jnp.ones((1, model.max_length), jnp.int32)
    assert np.isfinite(model.apply(params, {"input_ids": ids}).hidden).all()
    with pytest.raises((TypeError, ValueError), match="shape"):
        model.apply(params, {"input_ids": jnp.ones((1, model.max_length + 1), jnp.int32)})


@EVERY
def test_round_trip(folder: Path, family: str):
    """Tree -> released names -> the file's own tensors, but for what stands beside the encoder."""
    backbone = aj.load_backbone(str(folder))
    assert aj.BertConfig.from_dict(backbone.config.to_dict()) == backbone.config
    assert list(trees.flatten(backbone.params)) == list(
        trees.flatten(weights.abstract(backbone.config, backbone.has_pooler))
    )
    released = convert.released_weights(backbone.params, backbone.config)
    stored = {name.split(".", 1)[1]: tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    assert released.keys() < stored.keys()
    for name, tensor in released.items():
        np.testing.assert_array_equal(tensor, stored[name].astype(np.float32), err_msg=name)


@EVERY
def test_a_tensor_of_another_family_is_unexpected(folder: Path, family: str, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    tensors = load_file(copy / "model.safetensors")
    other = "transformer.layer.0.ffn.lin1.bias" if family != "distilbert" else "encoder.layer.0.output.dense.bias"
    save_file(tensors | {other: np.zeros(3, np.float32)}, copy / "model.safetensors")
    with pytest.raises(BackboneError, match=f"unexpected {other}"):
        aj.load_backbone(str(copy))


@EVERY
def test_words_of_a_text_are_tokenised_as_within_it(folder: Path, family: str):
    tokenizer = aj.load_backbone(str(folder)).tokenizer
    words = "a cat is on the dog".split()
    whole = tokenizer.encode(" " + " ".join(words), add_special_tokens=False)
    assert [token for word in pieces(tokenizer, words) for token in word] == whole
    assert pieces(tokenizer, ["cat ", "", " "]) == [pieces(tokenizer, ["cat"])[0], [], []]


@EVERY
def test_a_tokenizer_of_another_kind_is_refused(folder: Path, family: str, tmp_path: Path):
    """transformers makes one of five special tokens of it, or of as many as there are words in no file."""
    files = ("vocab.txt", "vocab.json", "merges.txt", "tokenizer.json")
    foreign = "vocab.txt" if family in ("roberta", "xlm-roberta") else "vocab.json"
    own = {"roberta": "vocab.json and merges.txt", "xlm-roberta": "sentencepiece.bpe.model"}.get(family, "vocab.txt")
    copy = Path(shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns(*files)))
    other = folder.parent / ("electra" if foreign == "vocab.txt" else "roberta")
    shutil.copy(other / foreign, copy)
    with pytest.raises(BackboneError, match=f"expected tokenizer.json, or {own}, which .* reads, found {foreign}"):
        _ = aj.load_backbone(str(copy)).tokenizer


@EVERY
def test_a_prompt_starts_from_words_as_they_are_within_a_text(folder: Path, family: str):
    backbone = aj.load_backbone(str(folder))
    within = backbone.tokenizer.encode("the good", add_special_tokens=False)[-1:]
    assert backbone.tokenize("good") == within
    assert aj.Prompt(length=2, init="labels").prepare(backbone.tokenize, ("good",)).init_tokens == (str(within[0]),)


@EVERY
def test_rows_of_masked_training(folder: Path, family: str):
    backbone = aj.load_backbone(str(folder))
    tokenizer = backbone.tokenizer
    rows = pack(["the cat is good", "who is the man and the woman on the dog"], tokenizer, 12)
    batch = rows.batch(np.arange(len(rows)), 12)
    assert (batch["input_ids"][:, 0] == tokenizer.cls_token_id).all()
    assert (batch["input_ids"][batch["mask"] == 0] == tokenizer.pad_token_id).all()
    assert len(set(batch["words"][0])) == 1 + 4  # a number for each word, 0 for the special tokens
    model = aj.Model(backbone.config, aj.LoRA(rank=2), aj.MaskedLM.of(backbone, whole_word=True))
    params = model.init(jax.random.key(0), backbone.params)
    assert np.isfinite(model.loss(params, batch, jax.random.key(1))[0])


def test_a_roberta_pooler_is_left_to_the_heads(golden: Path, tmp_path: Path):
    """No objective trained it; transformers' classifiers do not read it either."""
    plain = golden / "encoders" / "roberta"
    copy = Path(shutil.copytree(plain, tmp_path / "copy"))
    pooler = {"roberta.pooler.dense.weight": np.zeros((32, 32)), "roberta.pooler.dense.bias": np.zeros(32)}
    tensors = load_file(copy / "model.safetensors")
    save_file(tensors | {name: x.astype(np.float16) for name, x in pooler.items()}, copy / "model.safetensors")
    with pytest.warns(UserWarning, match="passed over roberta.pooler.dense.bias, roberta.pooler.dense.weight:") as told:
        ours = aj.load_backbone(str(copy))
    assert len(told) == 1
    theirs = aj.load_backbone(str(plain))
    assert not ours.has_pooler and ours.fingerprint == theirs.fingerprint


def test_the_configs_of_the_base_releases():
    """Parameters as counted from their files, without heads and poolers."""
    count = lambda config: trees.count(weights.abstract(config, pooler=False))
    assert count(aj.BertConfig.family("roberta")) == 124_055_040
    assert count(aj.BertConfig.family("xlm-roberta")) == 277_453_056
    assert count(aj.BertConfig.family("distilbert")) == 66_362_880
    assert count(aj.BertConfig.family("electra")) == 108_891_648
    small = aj.BertConfig.from_dict({"model_type": "electra"})
    assert (small.embedding_size, count(small)) == (128, 13_483_008)
    assert aj.BertConfig.family("roberta").positions == 512
    assert aj.BertConfig.family("bert") == aj.BertConfig.base()


def test_berts_fingerprint_and_manifest_are_what_they_were():
    """The fields that other families need stand in neither; a BERT's config.json may name them without effect."""
    before = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}
    before |= {"hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings"}
    before |= {"type_vocab_size", "layer_norm_eps", "initializer_range"}
    assert aj.BertConfig().to_dict().keys() == before
    named = {"model_type": "bert", "embedding_size": 64, "pad_token_id": 1, "position_offset": 3, "dim": 3}
    assert aj.BertConfig.from_dict(named) == aj.BertConfig()
    digest = convert.fingerprint_of(aj.BertConfig.tiny()).hexdigest()
    assert digest == "55481f8024584da671443ca035ae1413d206568e6a3ca08b5fe8334f8cd8a809"


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"model_type": "albert"}, "must be 'bert', 'roberta', 'xlm-roberta', 'distilbert', 'electra', got 'albert'"),
        ({"model_type": ["bert"]}, "model_type must be"),
        ({"model_type": "distilbert", "dim": "wide"}, "hidden_size must be of type int, got 'wide'"),
        ({"model_type": "electra", "embedding_size": 0}, "embedding_size must be a positive integer, got 0"),
        ({"model_type": "roberta", "pad_token_id": 600}, r"\(pad_token_id \+ 1\) must be from 0 to 511, got 601"),
        *(
            ({"model_type": "roberta", "pad_token_id": pad}, "pad_token_id must be an integer of at least 0, got")
            for pad in ("1", 1.0, True, None, -1)
        ),
        ({"model_type": "roberta", "pad_token_id": 1, "position_offset": 3}, r"is pad_token_id \+ 1, got 3 and 1"),
        ({"model_type": "distilbert", "dim": 32, "hidden_size": 64}, "dim and hidden_size are one, got 32 and 64"),
        ({"model_type": "roberta", "type_vocab_size": 0}, "type_vocab_size must be a positive integer"),
        ({"model_type": "roberta", "position_embedding_type": "relative_key"}, "not supported"),
    ],
)
def test_configs_that_are_refused(fields: dict, match: str):
    with pytest.raises(BackboneError, match=match):
        aj.BertConfig.from_dict(fields)


def test_a_config_is_what_its_dict_says():
    configs = [aj.BertConfig.tiny(model_type=family) for family in ("bert", "distilbert", "electra")]
    configs += [aj.BertConfig.family("electra", embedding_size=size) for size in (64, 768, None)]
    configs += [aj.BertConfig.family(family) for family in ("roberta", "xlm-roberta", "distilbert")]
    for config in configs:
        assert aj.BertConfig.from_dict(config.to_dict()) == config
    assert not configs[4].projects
    assert aj.BertConfig.from_dict({"model_type": "distilbert", "dim": 32, "hidden_size": 32, "n_heads": 4}) == (
        aj.BertConfig.family("distilbert", hidden_size=32, num_attention_heads=4)
    )


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"model_type": "distilbert", "type_vocab_size": 2}, "type_vocab_size is 0 in every distilbert, got 2"),
        ({"model_type": "distilbert", "layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-12 in every distilbert"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: dict, match: str):
    with pytest.raises(BackboneError, match=match):
        aj.BertConfig.tiny(**fields)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("model_type", [], r"model_type must be 'bert', .*, got \[\]"),
        ("position_offset", "2", "position_offset must be of type int, got '2'"),
        ("hidden_size", True, "hidden_size must be of type int, got True"),
    ],
)
def test_types_are_checked_without_the_checker_of_the_tests(field: str, value: object, match: str):
    config = copy.copy(aj.BertConfig.tiny(model_type="roberta"))
    object.__setattr__(config, field, value)
    with pytest.raises(BackboneError, match=match):
        config.__post_init__()


def test_fields_are_refused_where_the_family_has_none():
    with pytest.raises(BackboneError, match="position_offset must be from 0 to 0"):
        aj.BertConfig(position_offset=2)
    with pytest.raises(BackboneError, match="embedding_size is for model_type 'electra'"):
        aj.BertConfig(embedding_size=64)
    with pytest.raises(BackboneError, match="model_type must be"):
        aj.BertConfig.family("albert")


def test_only_distilbert_has_no_dropout_after_attention():
    plain = aj.BertConfig.tiny()
    assert plain.attn_out_dropout_prob == plain.hidden_dropout_prob == 0.1
    assert aj.BertConfig.family("distilbert").attn_out_dropout_prob == 0.0


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("site", ["attn_dropout", "ffn_dropout"])
def test_a_layer_drops_out_where_its_family_does(family: str, site: str):
    """One place at a time: a key for it alone."""
    config = aj.BertConfig.tiny(model_type=family, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.0)
    backbone = weights.initialise(jax.random.key(0), config, pooler=False)
    first = jax.tree.map(lambda leaf: leaf[0], backbone["encoder"])
    h, mask = jax.random.normal(jax.random.key(1), (2, 5, 16)), jnp.ones((2, 5), bool)
    ctx = Context(jnp.ones((2, 5), jnp.int32), mask, h, 0)
    run = lambda keys: encoder.layer(first, config, h, mask, Slots({}, {}, keys, ctx))
    moved = float(abs(run({site: jax.random.key(2)}) - run({})).max())
    assert moved == 0 if (family, site) == ("distilbert", "attn_dropout") else moved > 1e-3


def test_couplings_have_no_inverse_where_the_masked_lm_head_is_narrower(golden: Path):
    backbone = aj.load_backbone(str(golden / "encoders" / "electra"))
    head, coupled = aj.MaskedLM.of(backbone), aj.Pfeiffer(bottleneck=4, invertible=True)
    for method in (coupled, aj.Frozen(coupled), aj.Stack((aj.Frozen(coupled), aj.Pfeiffer(bottleneck=4)))):
        with pytest.raises(ConfigError, match="as wide as the model, 32; a masked_lm head on this backbone is 16 wide"):
            aj.Model(backbone.config, method, head)
        aj.Model(backbone.config, method, aj.Classification(num_labels=2))
        aj.Model(dataclasses.replace(backbone.config, embedding_size=None), method, head)
    aj.Model(backbone.config, aj.Pfeiffer(bottleneck=4), head)


@EVERY
def test_an_artefact_of_each_family(folder: Path, family: str, tmp_path: Path):
    backbone = aj.load_backbone(str(folder))
    model = aj.Model(backbone.config, aj.Prompt(length=3), aj.Classification(num_labels=2))
    params = model.init(jax.random.key(0), backbone.params)
    aj.save_adapter(tmp_path / "a", model, params, backbone)
    stored = json.loads((tmp_path / "a" / "manifest.json").read_text())["config"]
    assert stored.get("model_type", "bert") == family.removesuffix("-multilingual")
    again, loaded = aj.load_adapter(tmp_path / "a", backbone)
    assert again == model
    testing.assert_same(loaded, params)
    assert len(aj.Predictor(again, loaded, backbone, max_length=16)([("the cat", "who"), ("a dog", "is bad")])) == 2
