"""Quantised kernels: a leaf type that stands for a float kernel [in out], and that `ops.Dense` alone computes with.

Only the six dense kernels of each encoder layer are quantised; embeddings, biases, LayerNorms and the pooler stay in
the float type. Quantised leaves are frozen always.

NF4 (Dettmers et al., 2023, https://arxiv.org/abs/2305.14314; bitsandbytes): W's rows (one per output) one after the
other, in blocks of 64, the last one shorter. With c the code book, a = max |w| of w's block:

    w ~ c[q] a        q: the nearest value of c to w / a; between two equally near the lower one
    a ~ D[p] s + o    o: the mean of all a; s = max |a - o| of a's group of 256 blocks; D: an 8-bit dynamic map

4 + 8/64 + 32/(64 256) = 4.127 bits for each weight. A width that is no multiple of 64 has blocks that go on in the next
row, as in bitsandbytes. int8: w ~ q s, s = max |w| / 127 of w's output, q a whole number from -127 to 127.

Quantising happens on the host, kernel by kernel; dequantising in float32, in the program that uses the weight. There is
no gradient by a quantised leaf.
"""

import abc
import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from adapters_jax import trees
from adapters_jax.bert import weights
from adapters_jax.errors import ConfigError, unknown
from adapters_jax.types import Array, Float, Tree

BLOCK, GROUP = 64, 256
"""Weights that share a scale, and scales that share one of their own."""

NF4_VALUES = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
"""The code book: quantiles of N(0, 1), scaled to [-1, 1], with a 0 (Dettmers et al., 2023, appendix E)."""


def _dynamic_map() -> np.ndarray:
    """256 values in [-1, 1], dense at 0: in each decade 10^(i-6) the middles of 2^i parts, of both signs; 0 and 1.

    "8-bit approximations for parallelism in deep learning" (Dettmers, 2016); bitsandbytes, create_dynamic_map.
    """
    values = [0.0, 1.0]
    for i in range(7):
        borders = np.linspace(0.1, 1.0, 2**i + 1)
        middles = 10.0 ** (i - 6) * (borders[:-1] + borders[1:]) / 2
        values += [*middles, *-middles]
    return np.sort(np.array(values, np.float32))


def _borders(values: np.ndarray) -> np.ndarray:
    """Where the nearest value changes; on a border it is the lower one."""
    wide = values.astype(np.float64)
    return ((wide[:-1] + wide[1:]) / 2).astype(np.float32)


DYNAMIC_VALUES = _dynamic_map()
NF4_BORDERS, DYNAMIC_BORDERS = _borders(NF4_VALUES), _borders(DYNAMIC_VALUES)
ZERO = int(np.searchsorted(NF4_BORDERS, np.float32(0)))
"""The code of 0."""


@dataclasses.dataclass(frozen=True, eq=False)
class Quantised(abc.ABC):
    """Stands for kernels [in out], or [l in out] where stacked over layers; one leaf to `trees`, a pytree to JAX.

    Every array in it has the leading axis of layers, so that scans, cuts and indices treat it as they do an array.

    Attributes:
        codes: [*l out ...]; may be sharded over `out`, and over the layers.
    """

    kind: ClassVar[str]
    codes: Any

    @classmethod
    @abc.abstractmethod
    def of(cls, rows: Float[np.ndarray, "o i"]) -> "Quantised":
        """The quantised form of one kernel in the released layout, a row of inputs for each output; finite, float32."""

    @abc.abstractmethod
    def rows(self) -> Float[Array, "*l o i"]:
        """Dequantised, a row of inputs for each output, in float32."""

    @property
    def inputs(self) -> int:
        return self.codes.shape[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it stands for: (*l, in, out)."""
        return (*self.codes.shape[:-2], self.inputs, self.codes.shape[-2])

    @property
    def nbytes(self) -> int:
        return sum(child.nbytes for child in jax.tree.leaves(self))

    def kernel(self) -> Float[Array, "*l i o"]:
        """Dequantised, in float32."""
        return jnp.swapaxes(self.rows(), -1, -2)

    def __getitem__(self, index: Any) -> Any:
        """Of one layer, or of a range of layers."""
        return jax.tree.map(lambda child: child[index], self)

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError(f"a quantised kernel ({self.kind}) is no array; quant.dequantise gives the tree of arrays")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NF4(Quantised):
    """4-bit NormalFloat with double quantisation.

    Attributes:
        codes: [*l out in/2] uint8: q of two inputs, the first in the high half; of an odd row the last half is unused.
        scales: [*l blocks] uint8, p.
        group_scales: [*l groups] float32, s.
        offset: [*l] float32, o.
        width: the number of inputs.
    """

    kind: ClassVar[str] = "nf4"
    scales: Any
    group_scales: Any
    offset: Any
    width: int = dataclasses.field(metadata=dict(static=True))

    @classmethod
    def of(cls, rows: Float[np.ndarray, "o i"]) -> "NF4":
        codes, absmax = _nearest(rows.reshape(-1), BLOCK, NF4_BORDERS)
        pairs = np.pad(codes.reshape(rows.shape), ((0, 0), (0, rows.shape[1] % 2)), constant_values=ZERO)
        offset = absmax.mean(dtype=np.float64).astype(np.float32)
        scales, group_scales = _nearest(absmax - offset, GROUP, DYNAMIC_BORDERS)
        return cls(pairs[:, ::2] << 4 | pairs[:, 1::2], scales, group_scales, offset, rows.shape[1])

    @property
    def inputs(self) -> int:
        return self.width

    def absmax(self) -> Float[Array, "*l blocks"]:
        """The largest magnitude of each block, dequantised."""
        blocks = self.scales.shape[-1]
        coded = jnp.take(jnp.asarray(DYNAMIC_VALUES), self.scales.astype(jnp.int32), mode="clip")
        return coded * jnp.repeat(self.group_scales, GROUP, axis=-1)[..., :blocks] + self.offset[..., None]

    def rows(self) -> Float[Array, "*l o i"]:
        *_, inputs, outputs = self.shape
        # Each byte twice, and its half by the column: 20 times as fast on CPUs as two arrays that are interleaved.
        pairs = jnp.repeat(self.codes, 2, axis=-1)[..., :inputs]
        first = jax.lax.broadcasted_iota(jnp.int32, pairs.shape, pairs.ndim - 1) % 2 == 0
        scales = jnp.repeat(self.absmax(), BLOCK, axis=-1)[..., : outputs * inputs]
        return _looked_up(jnp.where(first, pairs >> 4, pairs & 15)) * scales.reshape(pairs.shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Int8(Quantised):
    """8 bits, a scale for each output.

    Attributes:
        codes: [*l out in] int8.
        scales: [*l out] float32.
    """

    kind: ClassVar[str] = "int8"
    scales: Any

    @classmethod
    def of(cls, rows: Float[np.ndarray, "o i"]) -> "Int8":
        absmax = np.abs(rows).max(-1)
        codes = np.rint(rows * (127 * _inverse(absmax))[:, None]).clip(-127, 127).astype(np.int8)
        return cls(codes, absmax / np.float32(127))

    def rows(self) -> Float[Array, "*l o i"]:
        return self.codes.astype(jnp.float32) * self.scales[..., None]


TYPES: dict[str, type[Quantised]] = {cls.kind: cls for cls in (NF4, Int8)}
KINDS = tuple(TYPES)


def type_of(kind: str) -> type[Quantised]:
    """The leaf type of that name.

    Raises:
        ConfigError: there is none.
    """
    if kind not in TYPES:
        raise ConfigError(unknown("quantize", kind, KINDS))
    return TYPES[kind]


def is_quantisable(path: str) -> bool:
    """Whether the leaf at this path of a backbone, stacked or of one layer, is one of those that are quantised."""
    return trees.is_stacked(path) and "/".join(path.split("/")[-2:]) in _KERNELS


_KERNELS = tuple(row.path for row in weights.LAYER if row.transposed)


def kind_of(backbone: Tree) -> str | None:
    """How a backbone's kernels are quantised; None: they are floats."""
    return next((leaf.kind for leaf in trees.flatten(backbone).values() if isinstance(leaf, Quantised)), None)


def quantise(backbone: Tree, kind: str) -> tuple[Tree, dict[str, float]]:
    """A float backbone with its dense kernels quantised; `load_backbone` does the same without a float one in memory.

    This is also the way back from a backbone that adapters were folded into, which is float: what it costs is told.

    Args:
        backbone: as `Backbone.params`; leaves of any float type.
        kind: one of `KINDS`.

    Returns:
        (the backbone, layer-numbered path -> the largest absolute error of that kernel).

    Raises:
        ConfigError: another kind, or a backbone that is quantised already.
    """
    type_of(kind)
    largest = {}

    def quantised(path: str, leaf: Any) -> Any:
        if not is_quantisable(path):
            return leaf
        if isinstance(leaf, Quantised):
            raise ConfigError(f"quantise: expected a float backbone, {path} is quantised ({leaf.kind})")
        parts = []
        for name, kernel in zip(trees.layer_paths(path, leaf), leaf, strict=True):
            rows = np.ascontiguousarray(np.asarray(kernel, np.float32).T)
            parts.append(TYPES[kind].of(rows))
            largest[name] = float(np.abs(np.asarray(parts[-1].rows()) - rows).max())
        return stacked(parts)

    return trees.map_paths(quantised, backbone), largest


def abstract(backbone: Tree, kind: str) -> Tree:
    """The shapes that `quantise` makes of a backbone of shapes."""
    form = type_of(kind)

    def quantised(path: str, leaf: Any) -> Any:
        if not is_quantisable(path):
            return leaf
        layers, inputs, outputs = leaf.shape
        one = form.of(np.zeros((outputs, inputs), np.float32))
        return jax.tree.map(lambda child: jax.ShapeDtypeStruct((layers, *child.shape), child.dtype), one)

    return trees.map_paths(quantised, backbone)


def dequantise(backbone: Tree) -> Tree:
    """The backbone of floats that a quantised one stands for; its kernels in float32, what is no kernel as it is."""
    return trees.map_paths(lambda _, leaf: leaf.kernel() if isinstance(leaf, Quantised) else leaf, backbone)


def stacked(layers: Iterable[Any]) -> Any:
    """Leaves of single layers, quantised or not, as one leaf."""
    return jax.tree.map(lambda *each: np.stack(each), *layers)


@jax.custom_vjp
def product(x: Float[Array, "*b i"], kernel: Quantised) -> Float[Array, "*b o"]:
    """x W in x's type. For the backward pass the codes are kept, not W."""
    return jnp.matmul(x, kernel.rows().astype(x.dtype).T)


def _forward(x: Float[Array, "*b i"], kernel: Quantised) -> tuple[Float[Array, "*b o"], Quantised]:
    return product(x, kernel), kernel


def _backward(kernel: Quantised, gradient: Float[Array, "*b o"]) -> tuple[Float[Array, "*b i"], None]:
    return jnp.matmul(gradient, kernel.rows().astype(gradient.dtype)), None


product.defvjp(_forward, _backward)


def _nearest(values: np.ndarray, size: int, borders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(codes [n] of values / their block's absmax, absmax [blocks]); the last block may be shorter."""
    blocks = np.pad(values, (0, -values.size % size)).reshape(-1, size)
    absmax = np.abs(blocks).max(-1)
    blocks = blocks * _inverse(absmax)[:, None]
    codes = np.zeros(blocks.shape, np.uint8)
    for border in borders:  # some times as fast as a binary search for each value
        codes += blocks > border
    return codes.reshape(-1)[: values.size], absmax


def _inverse(absmax: np.ndarray) -> np.ndarray:
    """1 / absmax; 0 where that is 0, or so small that its inverse overflows."""
    return np.divide(1, absmax, out=np.zeros_like(absmax), where=absmax >= np.finfo(np.float32).tiny)


def _looked_up(codes: Array, values: np.ndarray = NF4_VALUES) -> jax.Array:
    """The code book's values, by halving: as fast as a table on CPUs, and no gather, which is slow on TPUs.

    The last halving is arithmetic, and exact: choosing between two constants would make whole arrays of them, which
    scans keep.
    """
    half = len(values) // 2
    if half == 1:
        odd = (codes & 1).astype(jnp.float32)
        return jnp.add((1 - odd) * float(values[0]), odd * float(values[1]))
    return jnp.where((codes & half) != 0, _looked_up(codes, values[half:]), _looked_up(codes, values[:half]))
