"""Folded models: every released name and shape, our own reader's logits, label names; what is refused.

That transformers loads them with equal logits: `make parity` (parity/folded.py).
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import adapters_jax as aj
from adapters_jax import testing
from adapters_jax.bert import weights
from adapters_jax.bert.heads import Head
from adapters_jax.errors import AdapterError, ConfigError, NotFoldable
from adapters_jax.interop import save_hf
from tests.interop.drawn import LABELS, drawn

TAGS = aj.TokenClassification(labels=("O", "B", "I"))
CASES = {
    "lora": (aj.LoRA(rank=2), aj.Classification(labels=LABELS), "BertForSequenceClassification"),
    "dora-tags": (aj.LoRA(rank=2, dora=True), TAGS, "BertForTokenClassification"),
    "ia3-regression": (aj.IA3(), aj.Regression(mean=2.5, deviation=1.5), "BertForSequenceClassification"),
    "bitfit-bare": (aj.BitFit(), aj.NoHead(), "BertModel"),
}


def released(config: aj.BertConfig, head: Head) -> dict[str, tuple[int, ...]]:
    """Name -> shape, of the class that transformers has for the head."""
    prefix = "" if isinstance(head, aj.NoHead) else "bert."
    rows = weights.numbered(config, pooler=not isinstance(head, aj.TokenClassification))
    shapes = {f"{prefix}{row.released}": row.shape(config)[:: -1 if row.transposed else 1] for row in rows}
    if isinstance(head, aj.NoHead):
        return shapes
    classes = len(getattr(head, "labels", ("score",)))
    return shapes | {"classifier.weight": (classes, config.hidden_size), "classifier.bias": (classes,)}


@pytest.mark.parametrize("name", CASES)
def test_every_released_name_is_there_and_reads_back(name: str, tiny: aj.Backbone, tmp_path: Path):
    method, head, architecture = CASES[name]
    model, params = drawn(tiny, method, head)
    save_hf(tmp_path / "hf", model, params, tiny)
    found = load_file(tmp_path / "hf" / "model.safetensors")
    assert {name: leaf.shape for name, leaf in found.items()} == released(tiny.config, head)
    assert {leaf.dtype.name for leaf in found.values()} == {"float32"}
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == [architecture]

    plain = aj.load_backbone(str(tmp_path / "hf"))
    assert plain.config == tiny.config
    own = {}
    if "classifier.weight" in found:
        own = {"classifier": {"kernel": found["classifier.weight"].T, "bias": found["classifier.bias"]}}
    if isinstance(head, aj.Regression):
        head = aj.Regression()
    bare = aj.Model(tiny.config, aj.HeadOnly(), head)
    batch = testing.fake_batch(tiny.config)
    again = jax.jit(bare.apply)({"backbone": plain.params, "adapters": {}, "head": own}, batch)
    first = jax.jit(model.apply)(params, batch)
    np.testing.assert_allclose(again.hidden, first.hidden, atol=2e-5)
    scores = lambda model, output: (
        model.head.predictions(np.asarray(output.logits)) if isinstance(head, aj.Regression) else output.logits
    )
    np.testing.assert_allclose(scores(bare, again), scores(model, first), atol=1e-5)


def test_the_config_and_the_tokenizer(tiny: aj.Backbone, tmp_path: Path):
    save_hf(tmp_path / "a", *drawn(tiny, aj.LoRA(rank=2)), tiny)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["id2label"] == {"0": LABELS[0], "1": LABELS[1], "2": LABELS[2]}
    assert config["label2id"] == {name: number for number, name in enumerate(LABELS)}
    assert (config["num_labels"], config["problem_type"]) == (3, "single_label_classification")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tiny.folder / name).read_bytes()
    save_hf(tmp_path / "b", *drawn(tiny, aj.LoRA(rank=2), aj.Regression()), tiny)
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert (config["num_labels"], config["problem_type"]) == (1, "regression")


def test_a_pooler_of_the_head_s_own_is_written(tmp_path: Path):
    bare = testing.tiny_backbone(tmp_path / "bare", pooler=False)
    model, params = drawn(bare, aj.HeadOnly())
    save_hf(tmp_path / "hf", model, params, bare)
    found = load_file(tmp_path / "hf" / "model.safetensors")
    np.testing.assert_array_equal(found["bert.pooler.dense.weight"], params["head"]["pooler"]["kernel"].T)
    with pytest.raises(ConfigError, match="head none: expected a backbone with a pooler"):
        save_hf(tmp_path / "no", *drawn(bare, aj.HeadOnly(), aj.NoHead()), bare)


def test_what_cannot_be_folded_is_refused(tiny: aj.Backbone, tmp_path: Path):
    for method in (aj.Houlsby(bottleneck=4), aj.Prefix(length=2, bottleneck=2), aj.Prompt(length=2)):
        with pytest.raises(NotFoldable, match=f"{method.name} cannot be folded into the backbone") as told:
            save_hf(tmp_path / "a", *drawn(tiny, method), tiny)
        assert "\n" not in str(told.value)
    head = aj.MaskedLM(mask_id=4, vocab_size=128)
    with pytest.raises(ConfigError, match="head masked_lm: expected one of classification, regression"):
        save_hf(tmp_path / "a", *drawn(tiny, aj.LoRA(rank=2), head), tiny)
    model, params = drawn(tiny, aj.LoRA(rank=2))
    with pytest.raises(ConfigError, match="expected another folder than the backbone's own"):
        save_hf(tiny.folder, model, params, tiny)
    params["head"]["classifier"]["bias"] = params["head"]["classifier"]["bias"].at[0].set(np.nan)
    with pytest.raises(AdapterError, match=r"NaN or infinity in classifier\.bias"):
        save_hf(tmp_path / "a", model, params, tiny)
    assert not (tmp_path / "a").exists()


def test_classes_of_one_name_are_refused(tiny: aj.Backbone, tmp_path: Path):
    for head in (aj.Classification(labels=("a", "b", "a")), aj.TokenClassification(labels=("O", "O"))):
        with pytest.raises(ConfigError, match=f"head {head.name}: expected classes of different names, which label2id"):
            save_hf(tmp_path / "a", *drawn(tiny, aj.LoRA(rank=2), head), tiny)
    assert not (tmp_path / "a").exists()


def test_a_tokenizer_of_another_backbone_is_not_mixed_in(tiny: aj.Backbone, tmp_path: Path):
    model, params = drawn(tiny, aj.LoRA(rank=2))
    save_hf(tmp_path / "hf", model, params, tiny)
    save_hf(tmp_path / "hf", model, params, tiny)  # in its own place
    (tmp_path / "hf" / "added_tokens.json").write_text("{}")
    with pytest.raises(AdapterError, match=r"replaced as a whole, found added_tokens\.json beside it"):
        save_hf(tmp_path / "hf", model, params, tiny)
