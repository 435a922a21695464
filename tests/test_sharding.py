"""Rules reach every leaf of every method; meshes that cannot be are refused in one line. No devices are needed."""

import types

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

import adapters_jax as aj
from adapters_jax import sharding, trees
from adapters_jax.bert import quant, weights
from adapters_jax.errors import ConfigError
from adapters_jax.sharding import AXES, Layout, Rule, make_mesh, read_sizes
from adapters_jax.training.settings import Settings
from adapters_jax.training.step import init_state, make_optimizer
from tests.methods.table import ROWS_BY_NAME
from tests.methods.test_encoders import CONFIGS
from tests.methods.tiny import BACKBONE, THREE, TINY

MIXED = Layout(AbstractMesh((2, 2, 2), AXES, axis_types=(AxisType.Auto,) * 3))


def layout(**sizes: int) -> Layout:
    return Layout(AbstractMesh(tuple(sizes.get(axis, 1) for axis in AXES), AXES, axis_types=(AxisType.Auto,) * 3))


@pytest.mark.parametrize("rules", [sharding.RULES, sharding.SHARDED_ADAPTERS], ids=["replicated", "split"])
@pytest.mark.parametrize("name", ROWS_BY_NAME)
def test_every_leaf_of_every_method_has_its_place(name: str, rules: tuple):
    model = aj.Model(TINY, ROWS_BY_NAME[name].tiny, THREE)
    params = model.abstract(BACKBONE)
    own = Layout(MIXED.mesh, rules)
    places = trees.flatten(own.params(params))
    for path, leaf in trees.flatten(params).items():
        whole, part = leaf.shape, places[path].shard_shape(leaf.shape)
        assert all(size % share == 0 for size, share in zip(whole, part, strict=True)), path
        if not path.startswith("backbone/") and rules is sharding.RULES:
            assert whole == part, path
    kernels = [path for path in places if path.startswith("backbone/encoder") and path.endswith("kernel")]
    assert kernels and all(np.prod(places[p].shard_shape((3, 16, 32))) == 3 * 16 * 32 / 4 for p in kernels)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_every_leaf_of_every_family_has_its_place(family: str):
    params = aj.Model(CONFIGS[family], aj.Full(), THREE).abstract(weights.abstract(CONFIGS[family], pooler=False))
    places = trees.flatten(MIXED.params(params))
    assert places["backbone/embeddings/words"].spec == P(None, "fsdp")
    if family == "electra":
        assert places["backbone/embeddings/project/kernel"].spec == P("fsdp", None)
        assert places["backbone/embeddings/project/bias"].spec == P(None)
    for path, leaf in trees.flatten(params).items():
        part = places[path].shard_shape(leaf.shape)
        assert all(size % share == 0 for size, share in zip(leaf.shape, part, strict=True)), path


def test_the_backbone_is_split_as_said():
    spec = lambda path, *shape: MIXED.leaf(path, jax.ShapeDtypeStruct(shape, np.float32)).spec
    assert spec("backbone/encoder/query/kernel", 3, 16, 16) == P(None, "fsdp", "model")
    assert spec("backbone/encoder/2/attn_out/kernel", 1, 16, 16) == P(None, "model", "fsdp")
    assert spec("backbone/encoder/ffn_in/bias", 3, 32) == P(None, "model")
    assert spec("backbone/encoder/ffn_out/bias", 3, 16) == P(None, None)
    assert spec("backbone/embeddings/words", 128, 16) == P(None, "fsdp")
    assert spec("backbone/embeddings/positions", 64, 16) == P()
    assert spec("head/classifier/kernel", 16, 3) == P()


def test_the_widest_dimension_of_adapters_is_split():
    own = Layout(layout(fsdp=4).mesh, sharding.SHARDED_ADAPTERS)
    spec = lambda *shape: own.leaf("adapters/encoder/attn_merge/down/kernel", jax.ShapeDtypeStruct(shape, float)).spec
    assert spec(4, 16, 8) == P(None, "fsdp")
    assert spec(4, 6, 8) == P(None, None, "fsdp")
    assert spec(4, 6, 6) == P()


def test_a_size_that_does_not_divide_names_the_leaf():
    with pytest.raises(ConfigError, match=r"fsdp=3 does not divide the 16 of backbone/embeddings/words \[128, 16\]"):
        layout(fsdp=3).params({"backbone": BACKBONE})


def test_a_leaf_without_a_rule_is_refused():
    own = Layout(MIXED.mesh, (Rule("backbone/.*", ()),))
    with pytest.raises(ConfigError, match="expected a rule for adapters/x, found none"):
        own.params({"adapters": {"x": np.zeros(2)}})


def test_codes_are_split_and_what_scales_them_is_not():
    backbone = quant.abstract({"encoder": weights.abstract(TINY)["encoder"]}, "nf4")
    leaf = MIXED.leaf("backbone/encoder/ffn_in/kernel", backbone["encoder"]["ffn_in"]["kernel"])
    assert leaf.codes.spec == P(None, "model", "fsdp")
    assert leaf.scales.spec == leaf.offset.spec == P()
    odd = layout(model=5, fsdp=16).leaf("backbone/encoder/ffn_in/kernel", backbone["encoder"]["ffn_in"]["kernel"])
    assert odd.codes.spec == P(None, None, None)


@pytest.mark.parametrize(
    ("method", "optimizer", "moments"),
    [
        (aj.Full(), "adamw", ("mu", "nu")),
        (aj.Full(), "adafactor", ("v_row",)),
        (aj.AdaLoRA(), "adamw", ("sensitivity", "mu")),
    ],
    ids=["adamw", "adafactor", "adalora"],
)
def test_moments_lie_as_their_parameters(method: aj.Method, optimizer: str, moments: tuple[str, ...]):
    model = aj.Model(TINY, method, THREE)
    params = model.abstract(BACKBONE)
    labels = model.labels(params)
    tx, _ = make_optimizer(model, Settings(lr=1e-3, steps=20, optimizer=optimizer), 20, labels)
    trained, _ = trees.split(params, labels)
    state = jax.eval_shape(lambda leaves: init_state(leaves, tx), trained)
    own = Layout(MIXED.mesh, sharding.SHARDED_ADAPTERS)
    places = own.like(state, state.trained)
    wanted = trees.flatten(own.params(trained))
    assert trees.flatten(places.trained) == wanted
    pairs = jax.tree_util.tree_leaves_with_path(places.opt_state)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): place for path, place in pairs}
    for moment in moments:
        found = {path: place for path, place in named.items() if f"/{moment}/" in path}
        assert found
        for path, place in found.items():
            end = next(end for end in wanted if path.endswith(end))
            assert place.spec == (P() if moment == "v_row" else wanted[end].spec), path


def test_sizes():
    assert read_sizes("data=-1") == {"data": -1, "fsdp": 1, "model": 1}
    assert read_sizes("fsdp=2, model=4") == {"data": -1, "fsdp": 2, "model": 4}
    assert read_sizes("data=2,fsdp=-1") == {"data": 2, "fsdp": -1, "model": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dta=2", "unknown axis 'dta'"),
        ("data=2,data=2", "each axis once"),
        ("data=0", "N from 1, or -1"),
        ("data=two", "N from 1, or -1"),
        ("data=-1,fsdp=-1", "-1 for one axis at most"),
        ("data=-1,fsdp=3", "divide the 8 devices, got 3"),
        ("data=16", "at most the 8 devices that there are, got 16"),
    ],
)
def test_a_wrong_mesh(text: str, message: str):
    devices = [types.SimpleNamespace(process_index=0, id=i) for i in range(8)]
    with pytest.raises(ConfigError, match=message):
        make_mesh(text, devices)


def test_several_processes_use_all_their_devices():
    devices = [types.SimpleNamespace(process_index=i // 4, id=i) for i in range(8)]
    with pytest.raises(ConfigError, match="all 8 devices of the processes, got 4; use -1"):
        make_mesh("data=4", devices)


def test_slices_share_the_data_axis():
    class Device:
        device_kind, process_index = "x", 0

        def __init__(self, platform: str, number: int) -> None:
            self.platform, self.id, self.slice_index = platform, number, number // 4

    tpus, gpus = ([Device(platform, number) for number in range(8)] for platform in ("tpu", "gpu"))
    with pytest.raises(ConfigError, match="data to be a multiple of the 2 slices, got 1"):
        make_mesh("data=1,fsdp=8", tpus)
    # What JAX calls a slice of GPUs is a host.
    assert dict(make_mesh("data=1,fsdp=8", gpus).shape) == {"data": 1, "fsdp": 8, "model": 1}


def test_sizes_may_be_a_mapping():
    one = jax.devices()[:1]
    assert dict(make_mesh({"data": -1}, one).shape) == {"data": 1, "fsdp": 1, "model": 1}
    with pytest.raises(ConfigError, match="unknown axis 'dta'"):
        make_mesh({"dta": 1}, one)


def test_the_table():
    model = aj.Model(TINY, aj.Houlsby(bottleneck=4), THREE)
    lines = MIXED.table(model.abstract(BACKBONE)).splitlines()
    assert lines[0] == "mesh of 8 devices: data 2, fsdp 2, model 2"
    assert any("backbone/embeddings/words" in line and "-,fsdp" in line for line in lines)
    assert any("adapters/" in line and "everywhere" in line for line in lines)


def test_a_batch_on_one_device():
    mesh = make_mesh("data=1", jax.devices()[:1])
    own = Layout(mesh)
    batch = own.batch(np.array([3, -1]), lambda ids: {"x": ids[:, None]})
    np.testing.assert_array_equal(batch["x"], [[3], [-1]])
    assert batch["x"].sharding.is_equivalent_to(own.rows, 2)
