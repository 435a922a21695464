"""How many FLOPs the matrix products of a training step need, by arithmetic: which operands depend on what is trained.

A product costs its FLOPs once forward, and once more for each operand whose gradient is needed: an activation below
which something is trained, or a trained weight. So nothing is counted below the lowest trained leaf.
"""

import dataclasses

import adapters_jax as aj

ROWS, LENGTH, CLASSES = 8, 128, 3
TOKENS = ROWS * LENGTH


@dataclasses.dataclass(frozen=True)
class Extra:
    """What a method adds to the plain model.

    Attributes:
        inner: the bottleneck's width by merge slot.
        serial: whether the bottleneck reads the sublayer's output, or its input.
        rank: of the low-rank product by project slot.
        scaled: project slots whose result is scaled by something trained.
        prefix: the number of prefixes in each layer.
        rows: trained tokens in front of the text.
        setup: FLOPs of what stands before the layers, forward and backward.
        embedded: whether that changes the embeddings.
        above: FLOPs of what stands above the layers, forward and backward.
        layers: the layers that carry anything; None for all.
    """

    inner: dict[str, int] = dataclasses.field(default_factory=dict)
    serial: bool = True
    rank: dict[str, int] = dataclasses.field(default_factory=dict)
    scaled: tuple[str, ...] = ()
    prefix: int = 0
    rows: int = 0
    setup: float = 0.0
    embedded: bool = False
    above: float = 0.0
    layers: tuple[int, ...] | None = None


def mlp(length: int, inner: int, layers: int = 3, d: int = 768) -> float:
    """Forward and backward FLOPs of a prefix network."""
    return 3 * 2.0 * length * (d * inner + inner * layers * 2 * d)


def knowledge(d: int = 768, m: int = 768, places: int = 3, layers: int = 2) -> float:
    """Forward and backward FLOPs of K-Adapter's network, the first of whose inputs is frozen, and its dense layer."""
    dense = lambda inputs, outputs: 2.0 * TOKENS * inputs * outputs
    layer = dense(m, 12 * m) + 2 * dense(LENGTH, m)
    return 3 * (places * (2 * dense(d, m) + layers * layer) + dense(2 * d, d)) - dense(d, m)


def grams(rank: int, d: int = 768, f: int = 3072, layers: int = 3) -> float:
    """Forward and backward FLOPs of A'A and B B' of every change: one product, of which both operands are trained."""
    return 3 * 2.0 * layers * rank**2 * (4 * 2 * d + 2 * (d + f))


@dataclasses.dataclass
class Ledger:
    """Sums products; each returns whether its result depends on something trained."""

    flops: float = 0.0

    def product(self, cost: float, *operands: bool) -> bool:
        self.flops += cost * (1 + sum(operands))
        return any(operands)

    def dense(self, rows: int, inputs: int, outputs: int, x: bool, kernel: bool = True, bias: bool = True) -> bool:
        return self.product(2.0 * rows * inputs * outputs, x, kernel) or bias


def needed(method: aj.Method, config: aj.BertConfig, extra: Extra) -> float:
    """FLOPs of one step at ROWS x LENGTH."""
    ledger, d, f = Ledger(), config.hidden_size, config.intermediate_size
    trained = lambda *parts: method.trainable("/".join(("backbone", *map(str, parts))), config)
    length = LENGTH + extra.rows
    tokens = ROWS * length
    ledger.flops += extra.setup
    x = extra.embedded or bool(extra.rows) or any(trained("embeddings", leaf) for leaf in ("words", "norm/bias"))
    for layer in range(config.num_hidden_layers):
        x = _layer(ledger, trained, extra, layer, (tokens, length, d, f), x)
    ledger.flops += extra.above
    x = x or bool(extra.above)
    pooled = ledger.dense(ROWS, d, d, x, trained("pooler/kernel"), trained("pooler/bias"))
    ledger.dense(ROWS, d, CLASSES, pooled)
    return ledger.flops


def _layer(ledger: Ledger, trained, extra: Extra, layer: int, sizes: tuple, x: bool) -> bool:
    tokens, length, d, f = sizes
    here = extra.layers is None or layer in extra.layers
    leaf = lambda name: trained("encoder", layer, name)

    def dense(name: str, inputs: int, outputs: int, x: bool) -> bool:
        y = ledger.dense(tokens, inputs, outputs, x, leaf(f"{name}/kernel"), leaf(f"{name}/bias"))
        if here and name in extra.rank:
            rank = extra.rank[name]
            return ledger.dense(tokens, rank, outputs, ledger.dense(tokens, inputs, rank, x, bias=False), bias=False)
        return y or (here and name in extra.scaled)

    def merge(slot: str, y: bool, residual: bool) -> bool:
        if here and slot in extra.inner:
            read, width = y if extra.serial else residual, extra.inner[slot]
            y = ledger.dense(tokens, width, d, ledger.dense(tokens, d, width, read))
        return y or residual or leaf(slot.replace("merge", "norm/bias"))

    q, k, v = (dense(name, d, d, x) for name in ("query", "key", "value"))
    prefix = bool(extra.prefix) and here
    cost = 2.0 * tokens * (length + extra.prefix * here) * d
    mixed = ledger.product(cost, ledger.product(cost, q, k or prefix), v or prefix)
    h = merge("attn_merge", dense("attn_out", d, d, mixed), x)
    return merge("ffn_merge", dense("ffn_out", f, d, dense("ffn_in", d, f, h)), h)
