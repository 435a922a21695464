"""What we write comes back bit for bit, and what the library lacks is refused with the reason.

That the library itself reads it: parity/adapterhub_ours.py and `make parity`.
"""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import trees
from adapters_jax.bert.heads import NoHead, Relation, TokenClassification
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.interop.adapterhub import load_adapterhub, save_adapterhub
from adapters_jax.testing import assert_same
from parity.adapterhub_ours import CONFIG, METHODS, backbone, build


def files(folder: Path) -> dict[str, object]:
    return {
        path.relative_to(folder).as_posix(): json.loads(path.read_text())
        if path.suffix == ".json"
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("method", METHODS)
def test_there_and_back_and_there(method: str, tmp_path: Path):
    model, params = build(method, "own")
    save_adapterhub(tmp_path / "first", model, params, backbone(), name="task")
    again, loaded = load_adapterhub(tmp_path / "first", backbone())
    assert again.head == model.head
    assert_same({k: loaded[k] for k in ("adapters", "head")}, {k: params[k] for k in ("adapters", "head")})
    save_adapterhub(tmp_path / "second", again, loaded, backbone(), name="task")
    assert files(tmp_path / "second") == files(tmp_path / "first")


@pytest.mark.parametrize("head", ["pooled", "tokens", "bare"])
def test_other_heads_there_and_back(head: str, tmp_path: Path):
    model, params = build("lora", head)
    save_adapterhub(tmp_path, model, params, backbone())
    again, loaded = load_adapterhub(tmp_path, backbone())
    assert (again.method, again.head) == (model.method, model.head)
    assert_same({k: loaded[k] for k in ("adapters", "head")}, {k: params[k] for k in ("adapters", "head")})
    written = set(files(tmp_path))
    own = {"adapter_config.json", "adapter.safetensors"}
    assert written == (own if head == "bare" else own | {"head_config.json", "model_head.safetensors"})


def test_a_regression_answers_on_the_scale_of_its_labels(tmp_path: Path):
    model, params = build("lora", "regression")
    save_adapterhub(tmp_path, model, params, backbone())
    again, loaded = load_adapterhub(tmp_path, backbone())
    assert again.head == aj.Regression()
    kernel = params["head"]["classifier"]["kernel"]
    np.testing.assert_allclose(loaded["head"]["classifier"]["kernel"], kernel * model.head.deviation)


WIDTHS = dict(bottleneck=4)
METHODS_REFUSED = {
    "the backbone's norms": (aj.Houlsby(), "layer_norms: it trains the backbone's LayerNorms.*--method.layer-norms"),
    "gated": (aj.Houlsby(preset="adapterhub", insertion="gated"), "insertion='gated'"),
    "inner layers": (aj.Pfeiffer(inner_layers=1), "inner_layers"),
    "elu": (aj.Pfeiffer(activation="elu"), "activation elu, selu"),
    "dora": (aj.LoRA(dora=True), "dora: it scales the bias too"),
    "attn_out": (aj.LoRA(slots=("query", "attn_out")), "slot attn_out"),
    "ranks": (aj.LoRA(ranks=(2, 3)), "ranks or scales that differ"),
    "scales": (aj.LoRA(alphas=(2.0, 3.0)), "ranks or scales that differ"),
    "the paper's ia3": (aj.IA3(preset="paper"), "preset='paper' with ffn_in"),
    "positions": (aj.Prefix(length=3, position_offset=True), "positions that start at the prefix's length"),
    "p-tuning v2": (aj.PTuningV2(length=3), "positions that start at the prefix's length"),
    "words": (aj.Prompt(length=3, read="first"), "insertion='words'"),
    "cls": (aj.Prompt(length=3, insertion="encoder"), "read='cls' under a head for texts"),
    "an ensemble": (aj.Prompt(length=3, insertion="encoder", read="first", ensemble=2), "an ensemble"),
    "layernorm": (aj.LayerNormTuning(), "adapters` has no counterpart"),
    "adalora": (aj.AdaLoRA(), "adapters` has no counterpart"),
    "two loras": (aj.compose(aj.LoRA(rank=2), aj.LoRA(rank=2)), "parts of one architecture"),
    "lora and ia3": (aj.compose(aj.LoRA(rank=2), aj.IA3(layers=(1,))), "parts of one architecture"),
    "a part's rule": (aj.compose(aj.LoRA(rank=2, dora=True), aj.Pfeiffer()), "dora: it scales the bias too"),
    "a part without a counterpart": (aj.compose(aj.LoRA(rank=2), aj.AdaLoRA()), "adapters` has no counterpart"),
    "parallel parts in a fusion": (aj.Fusion((aj.Parallel(), aj.Parallel()), ("a", "b")), "adapters that are not all"),
    "unlike parts in a fusion": (
        aj.Fusion((aj.Pfeiffer(), aj.Houlsby(preset="adapterhub", slots=("ffn_merge",))), ("a", "b")),
        "adapters that are not all",
    ),
    "a fusion in one layer": (
        aj.Fusion((aj.Pfeiffer(layers=(1,)), aj.Pfeiffer(layers=(1,))), ("a", "b")),
        "adapters that are not all",
    ),
    "a fusion's regulariser": (aj.Fusion((aj.Pfeiffer(), aj.Pfeiffer()), ("a", "b"), 0.5), "a regulariser other"),
    "a fusion without dropout": (aj.Fusion((aj.Pfeiffer(), aj.Pfeiffer()), ("a", "b"), dropout=0.0), "dropout=0.0"),
    "a fusion's names": (aj.Fusion((aj.Pfeiffer(), aj.Pfeiffer()), ("a,b", "c")), "name: a name that is empty, has"),
    "a fusion's attribute": (aj.Fusion((aj.Pfeiffer(), aj.Pfeiffer()), ("a", "pop")), "name: a name that torch"),
    "two loras in a stack": (aj.Stack((aj.LoRA(rank=2), aj.LoRA(rank=2))), "parts that meet"),
    "parallel in a stack": (aj.Stack((aj.Pfeiffer(), aj.Parallel())), "parts that meet"),
    "invertible on top": (aj.Stack((aj.Pfeiffer(), aj.Pfeiffer(invertible=True))), "parts that meet"),
    "a union in a stack": (aj.Stack((aj.MAM(), aj.LoRA(rank=2))), "a union in a stack"),
    "a dropped network": (aj.AdapterDrop(aj.Prefix(length=2), 1), "adapter_drop around another method than"),
    "a factor": (aj.Pfeiffer(invertible=True, invertible_factor=0.1), "an invertible_factor that gives another width"),
}


def saved(folder: Path, method: aj.Method, head: object, name: str = "default") -> None:
    model = aj.Model(CONFIG, method, head)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), model.abstract(backbone().params))
    save_adapterhub(folder, model, params, backbone(), name=name)


@pytest.mark.parametrize("method, message", METHODS_REFUSED.values(), ids=METHODS_REFUSED)
def test_methods_that_the_library_lacks_are_refused(method, message, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        saved(tmp_path / "new", method, aj.Classification(num_labels=3))
    assert not (tmp_path / "new").exists()


def test_heads_and_names_that_the_library_lacks_are_refused(tmp_path: Path):
    cases = {
        "head relation: a head other than": (Relation(num_labels=3), "default"),
        "two classes of one name": (TokenClassification(labels=("a", "a")), "default"),
        "name: a name that is empty, has": (NoHead(), "../up"),
        "name: a name that is empty, .*, got ''": (NoHead(), ""),
    }
    for message, (head, name) in cases.items():
        with pytest.raises(ConfigError, match=message):
            saved(tmp_path, aj.IA3(), head, name)
    with pytest.raises(ConfigError, match="read='first' without a head for texts"):
        saved(tmp_path, aj.Prompt(length=3, insertion="encoder", read="first"), NoHead())


@pytest.mark.parametrize(
    "name", ["train", "type", "forward", "weight", "pop", "_modules", "a.b", "a/b", "a,b", "x" * 101]
)
def test_names_that_torch_cannot_carry_are_refused(name: str, tmp_path: Path):
    for head in (NoHead(), aj.Classification(num_labels=3)):
        with pytest.raises(ConfigError, match="^name: a name that "):
            saved(tmp_path / "new", aj.IA3(), head, name)
    assert not (tmp_path / "new").exists()


def test_a_dropout_is_left_out_and_told(tmp_path: Path, caplog):
    model, params = build("pfeiffer", "own")
    save_adapterhub(tmp_path / "plain", model, params, backbone())
    assert not caplog.messages
    dropping = aj.Model(CONFIG, dataclasses.replace(model.method, dropout=0.1), model.head)
    save_adapterhub(tmp_path / "dropping", dropping, params, backbone())
    assert [message.partition(" is not kept")[0] for message in caplog.messages] == ["method pfeiffer: dropout 0.1"]
    assert files(tmp_path / "dropping") == files(tmp_path / "plain")


def test_params_of_another_model_are_refused(tmp_path: Path):
    model, params = build("ia3", "own")
    _, other = build("lora", "own")
    extra = lambda part: trees.unflatten(trees.flatten(params[part]) | {"extra/kernel": np.zeros(1, "f4")})
    cases = {
        "got other leaves: adapters/encoder/": other,
        "got other leaves: adapters/extra/kernel": params | {"adapters": extra("adapters")},
        "got other leaves: head/extra/kernel": params | {"head": extra("head")},
        "backbone/.* differs from the backbone's": params
        | {"backbone": jax.tree.map(lambda leaf: 2 * leaf, params["backbone"])},
    }
    for message, given in cases.items():
        with pytest.raises(AdapterError, match=message):
            save_adapterhub(tmp_path / "new", model, given, backbone())
    assert not (tmp_path / "new").exists()


def test_a_misshapen_leaf_is_named_by_its_path(tmp_path: Path):
    model, params = build("ia3", "own")
    for path in ("head/classifier/kernel", "head/pooler/bias", "adapters/encoder/key/scale"):
        flat = trees.flatten(params)
        flat[path] = flat[path][..., :-1]
        name = path.replace("encoder/", "encoder/0/")
        with pytest.raises(ConfigError, match=f"params: {name}: expected a leaf"):
            save_adapterhub(tmp_path / "new", model, trees.unflatten(flat), backbone())
    assert not (tmp_path / "new").exists()
