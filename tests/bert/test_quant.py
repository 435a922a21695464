"""Quantised kernels against a transcription of bitsandbytes' algorithm; the leaf in trees; products and gradients."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.bert import quant, weights
from adapters_jax.bert.ops import Dense
from adapters_jax.errors import ConfigError

pytestmark = pytest.mark.slow

CODE_BOOK = """
-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
-0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0
""".split()
THRESHOLDS = """
-0.8480964004993439 -0.6106329262256622 -0.4599952697753906 -0.33967943489551544 -0.23460740596055984
-0.13791173323988914 -0.045525018125772476 0.03979014977812767 0.1202552504837513 0.2035212516784668
0.2920137718319893 0.3893125355243683 0.5016634166240692 0.6427869200706482 0.8614784181118011
""".split()
"""The decision tree of bitsandbytes, csrc/kernels.cu, dQuantizeNF4, in order: above a threshold is the next code."""
F = np.float32


def dynamic_map() -> list[np.float32]:
    """bitsandbytes, functional.py, create_dynamic_map(signed=True), one value after the other."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = [0.1 + 0.9 * n / 2**i for n in range(2**i + 1)]
        for low, high in itertools.pairwise(edges):
            values += [sign * 10 ** (i - 6) * (low + high) / 2 for sign in (1, -1)]
    return sorted(map(F, values))


def transcribed(rows: np.ndarray) -> dict[str, list]:
    """NF4 with double quantisation, value by value, over the rows one after the other."""
    flat = [F(value) for row in rows for value in row]
    codes, absmax = [], []
    for start in range(0, len(flat), 64):
        block = flat[start : start + 64]
        absmax.append(max(abs(value) for value in block))
        inverse = F(1) / absmax[-1]
        codes += [sum(value * inverse > F(threshold) for threshold in THRESHOLDS) for value in block]
    offset = F(math.fsum(map(float, absmax)) / len(absmax))
    dynamic, scale_codes, scales = dynamic_map(), [], []
    for start in range(0, len(absmax), 256):
        group = [value - offset for value in absmax[start : start + 256]]
        scales.append(max(abs(value) for value in group))
        inverse = F(1) / scales[-1] if scales[-1] else F(0)  # the release divides by 0 here, and multiplies by it later
        for value in group:
            distances = [abs(value * inverse - each) for each in dynamic]
            scale_codes.append(distances.index(min(distances)))
    return {"codes": codes, "absmax": absmax, "scale_codes": scale_codes, "scales": scales, "offset": offset}


def unpacked(leaf: quant.NF4) -> list[int]:
    """The codes of a single kernel, row after row; the first of two stands in the high half of a byte."""
    rows = [[half for byte in row for half in (int(byte) >> 4, int(byte) & 15)] for row in leaf.codes]
    return [code for row in rows for code in row[: leaf.inputs]]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_golden_bytes():
    """By hand: the largest is 1, so that the values are looked up as they are."""
    rows = np.array([[1.0, -1.0, 0.0, 0.08, 0.5, -0.3, 0.25, -0.7]], np.float32)
    leaf = quant.NF4.of(rows)
    assert leaf.codes.tolist() == [[0xF0, 0x78, 0xC4, 0xA1]]
    assert (leaf.offset, leaf.scales.tolist(), leaf.group_scales.tolist()) == (1.0, [127], [0.0])
    expected = [float(CODE_BOOK[code]) for code in (15, 0, 7, 8, 12, 4, 10, 1)]
    np.testing.assert_array_equal(leaf.rows()[0], np.array(expected, np.float32))


def test_every_value_of_the_code_book_and_both_sides_of_every_threshold():
    book, edges = np.array(CODE_BOOK, np.float32), np.array(THRESHOLDS, np.float32)
    np.testing.assert_array_equal(quant.NF4_VALUES, book)
    above = np.nextafter(edges, F(2))
    codes = unpacked(quant.NF4.of(np.concatenate([book, edges, above, [F(1)]])[None]))
    assert codes == [*range(16), *range(15), *range(1, 16), 15]


def test_the_dynamic_map_is_the_published_one():
    expected = dynamic_map()
    assert len(expected) == 256 == len(set(expected))
    np.testing.assert_allclose(quant.DYNAMIC_VALUES, expected, rtol=2e-7)
    assert min(value for value in expected if value > 0) == F(5.5e-7) and max(expected) == 1


@pytest.mark.parametrize(
    "shape", [(1, 64), (5, 64), (3, 128), (3, 100), (6, 16), (7, 33), (2, 1), (1, 1), (1, 65), (40, 640)]
)
def test_codes_and_scales_equal_the_transcription(shape: tuple[int, int]):
    """Also where blocks go on in the next row, where the last block is short, and with several groups of scales."""
    rows = normal(*shape, seed=sum(shape)) * np.exp(normal(shape[0], 1))
    leaf, expected = quant.NF4.of(rows), transcribed(rows)
    assert unpacked(leaf) == expected["codes"]
    assert leaf.scales.tolist() == expected["scale_codes"]
    np.testing.assert_allclose(leaf.offset, expected["offset"], rtol=2e-7)
    np.testing.assert_allclose(leaf.group_scales, expected["scales"], rtol=1e-6, atol=1e-7)
    dynamic = dynamic_map()
    scales = [
        dynamic[code] * expected["scales"][n // 256] + expected["offset"]
        for n, code in enumerate(expected["scale_codes"])
    ]
    np.testing.assert_allclose(leaf.absmax(), scales, rtol=1e-5)
    values = [float(CODE_BOOK[code]) * scales[n // 64] for n, code in enumerate(expected["codes"])]
    np.testing.assert_allclose(np.ravel(leaf.rows()), values, rtol=1e-5)
    assert leaf.shape == shape[::-1] == leaf.kernel().shape
    if len(expected["absmax"]) == 1:  # nothing is lost of a single scale
        np.testing.assert_array_equal(leaf.absmax(), expected["absmax"])


def test_error_on_a_million_normal_values():
    """One row of a million inputs. Relative: each value's error divided by that value, and the mean of these."""
    values = normal(1, 1_000_000)
    error = np.abs(np.asarray(quant.NF4.of(values).rows()) - values)
    assert abs(error.mean() - 0.0728) < 0.0005
    assert abs((error / np.abs(values)).mean() - 0.203) < 0.002


@pytest.mark.parametrize(("outputs", "inputs"), [(768, 768), (3072, 768), (768, 3072)])
def test_bits_of_a_weight(outputs: int, inputs: int):
    """Of BERT-base's kernels; the codes alone are 4 bits, a scale for each 64 in float32 would make it 4.5."""
    leaf = quant.NF4.of(normal(outputs, inputs))
    arrays = [leaf.codes, leaf.scales, leaf.group_scales, leaf.offset]
    assert leaf.nbytes == sum(array.nbytes for array in arrays)
    assert 8 * leaf.nbytes / (outputs * inputs) == pytest.approx(4.127, abs=1e-3)
    assert 8 * quant.Int8.of(normal(outputs, inputs)).nbytes / (outputs * inputs) == pytest.approx(8, abs=0.05)


@pytest.mark.parametrize("kind", quant.KINDS)
def test_zeros_and_the_smallest_numbers_stay_finite(kind: str):
    for fill in (0.0, 1e-45, 1e-39, -1e-38, 3e38):
        rows = np.full((4, 32), fill, np.float32)
        rows[1] = 0
        found = np.asarray(quant.TYPES[kind].of(rows).rows())
        np.testing.assert_allclose(found, rows, rtol=2e-2, atol=1e-37)
        assert (found[1] == 0).all()


def test_int8():
    rows = np.array([[1.27, -0.5, 0.014], [0, 0, 0], [-254, 3, 127]], np.float32)
    leaf = quant.Int8.of(rows)
    assert leaf.codes.tolist() == [[127, -50, 1], [0, 0, 0], [-127, 2, 64]] and leaf.codes.dtype == np.int8
    np.testing.assert_allclose(leaf.scales, [0.01, 0, 2], rtol=1e-6)
    rows = normal(64, 50)
    error = np.abs(np.asarray(quant.Int8.of(rows).rows()) - rows)
    assert (error <= np.abs(rows).max(-1, keepdims=True) / 254 * 1.001).all()


CONFIG = aj.BertConfig.tiny(num_hidden_layers=3, hidden_size=48, intermediate_size=80)


@pytest.fixture(scope="module")
def floats() -> dict:
    return testing.perturb(weights.initialise(jax.random.key(0), CONFIG))


@pytest.mark.parametrize("kind", quant.KINDS)
def test_only_the_six_dense_kernels_of_the_layers(floats: dict, kind: str):
    tree, errors = quant.quantise(floats, kind)
    slots = ("query", "key", "value", "attn_out", "ffn_in", "ffn_out")
    kernels = {f"encoder/{slot}/kernel" for slot in slots}
    assert {path for path, leaf in trees.flatten(tree).items() if isinstance(leaf, quant.Quantised)} == kernels
    assert set(errors) == {f"encoder/{layer}/{slot}/kernel" for layer in range(3) for slot in slots}
    wide, before = quant.dequantise(tree), trees.to_layers(floats)
    for path, leaf in trees.to_layers(wide).items():
        if path in errors:
            assert leaf.dtype == np.float32 and 0 < errors[path] < 0.05
            assert float(np.abs(leaf - before[path]).max()) == pytest.approx(errors[path], rel=1e-5)
        else:
            assert leaf is trees.to_layers(tree)[path] or trees.same(leaf, before[path])
    assert (quant.kind_of(tree), quant.kind_of(wide), quant.kind_of(floats)) == (kind, None, None)


@pytest.mark.parametrize("kind", quant.KINDS)
def test_the_leaf_in_trees(floats: dict, kind: str):
    """It counts, is cut, joined, named and compared as the array it stands for."""
    tree, _ = quant.quantise(floats, kind)
    assert trees.count(tree) == trees.count(floats)
    assert list(trees.to_layers(tree)) == list(trees.to_layers(floats))
    runs = trees.split_runs(tree["encoder"], 3, [0, 1])
    assert runs["1"]["query"]["kernel"].shape == (2, 48, 48)
    testing.assert_same(trees.join_runs(runs, 3), tree["encoder"])
    alone = trees.to_layers({"encoder": runs})["encoder/2/ffn_in/kernel"]
    assert alone.shape == (48, 80)
    np.testing.assert_array_equal(alone.kernel(), tree["encoder"]["ffn_in"]["kernel"].kernel()[2])
    other = trees.map_paths(lambda path, leaf: leaf, tree)
    other["encoder"]["query"] |= {"kernel": jax.tree.map(np.array, tree["encoder"]["key"]["kernel"])}
    assert trees.diff(tree, other) == [f"encoder/{layer}/query/kernel" for layer in range(3)]
    assert trees.diff(tree, floats) == [path for path in trees.to_layers(tree) if quant.is_quantisable(path)]
    assert not trees.same(tree["encoder"]["query"]["kernel"], floats["encoder"]["query"]["kernel"])
    labels = trees.map_paths(lambda path, _: "frozen" if quant.is_quantisable(path) else "adapter", tree)
    trained, frozen = trees.split(tree, labels)
    assert set(trees.flatten(frozen)) == {path for path in trees.flatten(tree) if quant.is_quantisable(path)}
    testing.assert_same(trees.join(trained, frozen), tree)
    with pytest.raises(TypeError, match=r"a quantised kernel \((nf4|int8)\) is no array; quant\.dequantise"):
        np.asarray(alone)


def test_what_cannot_be_quantised_is_refused(floats: dict):
    with pytest.raises(ConfigError, match="unknown quantize 'nf8': known are nf4, int8; did you mean 'nf4'"):
        quant.quantise(floats, "nf8")
    tree, _ = quant.quantise(floats, "int8")
    with pytest.raises(ConfigError, match=r"expected a float backbone, encoder/query/kernel is quantised \(int8\)"):
        quant.quantise(tree, "nf4")


def dense(kind: str, inputs: int = 72, outputs: int = 40) -> tuple[Dense, Dense]:
    """A quantised layer, and the float one that it stands for."""
    leaf = quant.TYPES[kind].of(normal(outputs, inputs) * F(0.1))
    bias = jnp.asarray(normal(outputs))
    return Dense({"kernel": leaf, "bias": bias}), Dense({"kernel": leaf.kernel(), "bias": bias})


@pytest.mark.parametrize("kind", quant.KINDS)
@pytest.mark.parametrize("inputs", [64, 33])
def test_the_product_and_its_gradient_are_those_of_the_float_kernel(kind: str, inputs: int):
    ours, plain = dense(kind, inputs)
    x, g = jnp.asarray(normal(2, 5, inputs, seed=1)), jnp.asarray(normal(2, 5, 40, seed=2))
    assert ours.kernel().shape == (inputs, 40) and ours.kernel().dtype == np.float32
    value = lambda layer: lambda x: jnp.sum(jnp.sin(layer(x)) * g)
    for function in (value, lambda layer: jax.checkpoint(value(layer)), lambda layer: jax.jit(value(layer))):
        (found, by_x), (expected, by_plain) = (jax.value_and_grad(function(layer))(x) for layer in (ours, plain))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert testing.relative_error(by_x, by_plain) < 1e-6
    low = ours(x.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_array_equal(low, plain(x.astype(jnp.bfloat16)))


@pytest.mark.parametrize("kind", quant.KINDS)
def test_there_is_no_gradient_by_the_quantised_leaf(kind: str):
    """Its floats are scales: theirs would be no gradient by the weights."""
    ours, _ = dense(kind)
    x = jnp.asarray(normal(3, 72, seed=1))
    gradient = jax.grad(lambda leaf: quant.product(x, leaf).sum(), allow_int=True)(ours.params["kernel"])
    for leaf in jax.tree.leaves(gradient):
        assert leaf.dtype == jax.dtypes.float0 or not np.any(leaf)


@pytest.mark.parametrize("kind", quant.KINDS)
def test_under_vmap_and_scan(kind: str):
    """Over rows, over kernels, and over layers, forward and backward."""
    layers = [dense(kind, 40)[0].params["kernel"], quant.TYPES[kind].of(normal(40, 40, seed=5))]
    both, x = quant.stacked(layers), jnp.asarray(normal(2, 3, 40, seed=1))
    expected = jnp.stack([quant.product(row, leaf) for row, leaf in zip(x, layers, strict=True)])
    np.testing.assert_allclose(jax.vmap(quant.product)(x, both), expected, rtol=1e-5, atol=1e-6)
    found = jax.vmap(quant.product, (0, None))(x, layers[0])
    np.testing.assert_allclose(found, quant.product(x, layers[0]), rtol=1e-5, atol=1e-6)

    def through(x: jax.Array, product) -> jax.Array:
        return jax.lax.scan(lambda h, leaf: (jnp.tanh(product(h, leaf)), None), x, both)[0].sum()

    plain = lambda h, leaf: h @ leaf.kernel()
    for ours, theirs in zip(
        *(jax.value_and_grad(through)(x, product) for product in (quant.product, plain)), strict=True
    ):
        assert testing.relative_error(ours, theirs) < 1e-6


@pytest.mark.parametrize("kind", quant.KINDS)
def test_loading_quantises_what_was_read(kind: str, tmp_path):
    """Kernel by kernel, from the floats of the file whatever the type of the rest; one fingerprint."""
    folder = testing.write_backbone(tmp_path / "b", CONFIG, seed=3)
    plain, ours = aj.load_backbone(str(folder)), aj.load_backbone(str(folder), quantize=kind)
    testing.assert_same(ours.params, quant.quantise(plain.params, kind)[0])
    assert (ours.quantize, plain.quantize, ours.fingerprint) == (kind, None, plain.fingerprint)
    low = aj.load_backbone(str(folder), quantize=kind, dtype="bfloat16")
    for path, leaf in trees.flatten(low.params).items():
        if isinstance(leaf, quant.Quantised):
            assert trees.same(leaf, trees.flatten(ours.params)[path])
        else:
            assert leaf.dtype == jnp.bfloat16
    with pytest.raises(ConfigError, match="unknown quantize 'fp4': known are nf4, int8"):
        aj.load_backbone(str(folder), quantize="fp4")
