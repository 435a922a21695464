"""The methods that the conformance suite runs, and what is stated of each: a row for every method and preset."""

from collections.abc import Callable

import adapters_jax as aj
from adapters_jax.slots import PROJECT
from tests.methods.products import TOKENS, Extra, grams, knowledge, mlp
from tests.methods.row import ASIDE, BESIDE, FRONT, Row

SHORT_BASE = aj.BertConfig.base(num_hidden_layers=3)
"""Three layers of BERT-base's width, on which FLOPs are counted."""

KEYS = {"key/bias": "a shift of all keys moves all of a query's scores alike, which softmax does not see"}
NEAR, SMALL = 2e-3, 0.3
"""Bounds for kernels from 1e-3 and from 0.02, on the tiny backbone's hidden states of about 1."""

BOTH_MERGES = lambda m: {"attn_merge": m, "ffn_merge": m}
QV = {"query": 8, "value": 8}

ROWS_BY_NAME: dict[str, Row] = {
    "houlsby": Row(
        aj.Houlsby(bottleneck=8),
        NEAR,
        aj.Houlsby(),
        (2_379_264 + 38_400, 6_343_680 + 100_352),
        Extra(inner=BOTH_MERGES(64)),
    ),
    "houlsby paper": Row(
        aj.Houlsby(bottleneck=8, preset="paper"), 0.05, aj.Houlsby(preset="paper"), (2_417_664, 6_444_032)
    ),
    "houlsby adapterhub": Row(
        aj.Houlsby(bottleneck=8, preset="adapterhub"),
        SMALL,
        aj.Houlsby(preset="adapterhub"),
        (1_789_056, 6_343_680),
        Extra(inner=BOTH_MERGES(48)),
    ),
    "houlsby gated": Row(
        aj.Houlsby(bottleneck=8, insertion="gated"),
        NEAR,
        aj.Houlsby(insertion="gated"),
        (2_417_664, 6_444_032),
        Extra(inner=BOTH_MERGES(64), serial=False),
    ),
    "houlsby inner norm": Row(
        aj.Houlsby(bottleneck=8, inner_norm=True), NEAR, aj.Houlsby(inner_norm=True), (2_454_528, 6_542_336)
    ),
    "houlsby deep": Row(
        aj.Houlsby(bottleneck=8, inner_layers=2, activation="tanh"),
        NEAR,
        aj.Houlsby(inner_layers=1),
        (2_517_504, 6_643_712),
    ),
    "houlsby attention only": Row(
        aj.Houlsby(bottleneck=8, slots=("attn_merge",)), NEAR, aj.Houlsby(slots=("attn_merge",)), (1_228_032, 3_272_192)
    ),
    "houlsby feed-forward only": Row(
        aj.Houlsby(bottleneck=8, slots=("ffn_merge",)), NEAR, aj.Houlsby(slots=("ffn_merge",)), (1_228_032, 3_272_192)
    ),
    "houlsby upper layers": Row(
        aj.Houlsby(bottleneck=8, layers=(1, 2)),
        NEAR,
        aj.Houlsby(layers=(1, 2)),
        (402_688, 536_832),
        Extra(inner=BOTH_MERGES(64), layers=(1, 2)),
    ),
    "houlsby sizes": Row(
        aj.Houlsby(sizes=(0, 4, 8), layer_norms=False),
        NEAR,
    ),
    "pfeiffer": Row(
        aj.Pfeiffer(bottleneck=8), SMALL, aj.Pfeiffer(), (894_528, 3_171_840), Extra(inner={"ffn_merge": 48})
    ),
    "pfeiffer invertible": Row(
        aj.Pfeiffer(bottleneck=8, invertible=True),
        0.5,
        aj.Pfeiffer(invertible=True),
        (894_528 + 296_064, 3_171_840 + 525_824),
        Extra(inner={"ffn_merge": 48}, setup=11 * 2.0 * TOKENS * 384 * 192, embedded=True),
    ),
    "lin": Row(aj.Lin(bottleneck=8), 0.0, aj.Lin(), (912_960, 3_220_992), Extra(inner={"ffn_merge": 48})),
    "parallel": Row(
        aj.Parallel(bottleneck=8),
        0.0,
        aj.Parallel(),
        (7_091_712, 25_202_688),
        Extra(inner={"ffn_merge": 384}, serial=False),
    ),
    "scaled_parallel": Row(
        aj.ScaledParallel(bottleneck=8),
        0.0,
        aj.ScaledParallel(),
        (7_091_724, 25_202_712),
        Extra(inner={"ffn_merge": 384}, serial=False),
    ),
    "scaled_parallel channels": Row(
        aj.ScaledParallel(bottleneck=8, channels=True), 0.0, aj.ScaledParallel(channels=True), (7_100_928, 25_227_264)
    ),
    "bitfit": Row(aj.BitFit(), 0.0, aj.BitFit(), (102_912, 272_384), Extra(), folds="both", no_gradient=KEYS),
    "bitfit some": Row(
        aj.BitFit(biases=("query", "ffn_in")),
        0.0,
        aj.BitFit(biases=("query", "ffn_in")),
        (46_080, 122_880),
        folds="both",
    ),
    "layernorm": Row(aj.LayerNormTuning(), 0.0, aj.LayerNormTuning(), (38_400, 100_352), Extra(), folds="both"),
    "layernorm top layer": Row(
        aj.LayerNormTuning(layers=(2,)),
        0.0,
        extra=Extra(),
        published=aj.LayerNormTuning(layers=(2,)),
        counts=(3_072, 4_096),
        folds="both",
    ),
    "top_n": Row(
        aj.TopN(top=1),
        0.0,
        aj.TopN(top=1),
        (7_087_872 + 590_592, 12_596_224 + 1_049_600),
        Extra(),
        folds="both",
        no_gradient=KEYS,
    ),
    "top_n 2": Row(
        aj.TopN(top=2, pooler=False),
        0.0,
        aj.TopN(top=2, pooler=False),
        (2 * 7_087_872, 2 * 12_596_224),
        Extra(),
        folds="both",
        no_gradient=KEYS,
    ),
    "lora": Row(aj.LoRA(rank=4), 0.0, aj.LoRA(), (294_912, 786_432), Extra(rank=QV), folds="both"),
    "lora everywhere": Row(
        aj.LoRA(slots=PROJECT, rank=4, init="he"),
        0.0,
        aj.LoRA(slots=PROJECT, rank=2),
        (331_776, 884_736),
        Extra(rank=dict.fromkeys(PROJECT, 2)),
        folds="both",
    ),
    "lora top layer": Row(
        aj.LoRA(rank=4, layers=(2,), rank_stabilised=True),
        0.0,
        aj.LoRA(layers=(2,)),
        (24_576, 32_768),
        Extra(rank=QV, layers=(2,)),
        folds="both",
    ),
    "lora ranks": Row(aj.LoRA(slots=("query", "ffn_in"), ranks=(4, 2), alphas=(8.0, 2.0)), 0.0, folds="both"),
    "dora": Row(
        aj.LoRA(rank=4, dora=True), 2e-6, aj.LoRA(dora=True), (313_344, 835_584), Extra(rank=QV), folds="forth"
    ),
    "adalora": Row(
        aj.AdaLoRA(rank=4, target_rank=2),
        0.0,
        aj.AdaLoRA(rank=2),
        (331_920, 885_024),
        Extra(rank=dict.fromkeys(PROJECT, 2), setup=grams(2)),
        folds="both",
    ),
    "adalora top layer": Row(
        aj.AdaLoRA(slots=("query", "ffn_out"), rank=4, layers=(2,), dropout=0.1),
        0.0,
        aj.AdaLoRA(slots=("query", "ffn_out"), layers=(2,)),
        (3 * (1537 + 3841), 3 * (2049 + 5121)),
        folds="both",
    ),
    "lora int8": Row(aj.LoRA(rank=4), 0.0, folds="both", quantize="int8"),
    "dora nf4": Row(aj.LoRA(rank=4, dora=True), 2e-6, folds="forth", quantize="nf4"),
    "qlora": Row(
        aj.QLoRA(rank=4),
        0.0,
        aj.QLoRA(),
        (10_616_832, 28_311_552),
        Extra(rank=dict.fromkeys(PROJECT, 64)),
        folds="both",
        quantize="nf4",
    ),
    "ia3": Row(aj.IA3(), 0.0, aj.IA3(), (55_296, 147_456), Extra(scaled=("key", "value", "ffn_in")), folds="both"),
    "ia3 paper": Row(aj.IA3(preset="paper"), 0.0, aj.IA3(preset="paper"), (55_296, 147_456), folds="both"),
    "prefix": Row(
        aj.Prefix(length=5, bottleneck=8),
        None,
        aj.Prefix(),
        (9_872_384, 25_770_496),
        Extra(prefix=30, setup=mlp(30, 512)),
        folds=BESIDE,
    ),
    "prefix flat": Row(
        aj.Prefix(length=5, bottleneck=0),
        None,
        aj.Prefix(bottleneck=0),
        (552_960, 1_474_560),
        Extra(prefix=30),
        folds=BESIDE,
    ),
    "prefix offset": Row(aj.Prefix(length=5, bottleneck=0, position_offset=True), None, folds=BESIDE),
    "prefix top layer": Row(
        aj.Prefix(length=5, bottleneck=8, layers=(2,)),
        None,
        aj.Prefix(bottleneck=0, layers=(2,)),
        (46_080, 61_440),
        Extra(prefix=30, layers=(2,)),
        folds=BESIDE,
    ),
    "p_tuning_v2": Row(
        aj.PTuningV2(length=5), None, aj.PTuningV2(), (368_640, 983_040), Extra(prefix=20), folds=BESIDE
    ),
    "p_tuning_v2 projection": Row(aj.PTuningV2(length=5, projection=True, bottleneck=8), None, folds=BESIDE),
    "prompt": Row(aj.Prompt(length=5), None, aj.Prompt(length=20), (15_360, 20_480), Extra(rows=20), folds=FRONT),
    "prompt encoder": Row(
        aj.Prompt(length=5, insertion="encoder", init="uniform"),
        None,
        aj.Prompt(length=100),
        (76_800, 102_400),
        folds=FRONT,
    ),
    "prompt first": Row(aj.Prompt(length=5, read="first"), None, folds=FRONT),
    "prompt ensemble": Row(
        aj.Prompt(length=5, ensemble=3), None, aj.Prompt(length=20, ensemble=5), (76_800, 102_400), folds=FRONT
    ),
    "p_tuning": Row(
        aj.PTuning(length=5),
        None,
        aj.PTuning(),
        (8_278_272, 14_707_712),
        Extra(rows=9, setup=3 * 2.0 * 9 * (7_090_176 + 1_181_184)),
        folds=FRONT,
    ),
    "p_tuning mlp": Row(aj.PTuning(length=5, encoder="mlp", preset="peft"), None, folds=FRONT),
    "mam": Row(
        aj.MAM(length=5, prefix_bottleneck=8, bottleneck=8),
        None,
        aj.MAM(),
        (22_493_984, 65_424_160),
        Extra(prefix=30, inner={"ffn_merge": 384}, serial=False, setup=mlp(30, 800)),
        folds=BESIDE,
    ),
    "unipelt": Row(
        aj.UniPELT(length=5, prefix_bottleneck=8, reduction_factor=2.0, rank=4),
        None,
        aj.UniPELT(),
        (11_083_376, 29_806_688),
        Extra(prefix=10, inner={"ffn_merge": 48}, rank=QV, setup=mlp(10, 512)),
    ),
    "k_adapter": Row(
        aj.KAdapter(inner=8),
        None,
        aj.KAdapter(),
        (46_070_784 + 1_180_416, 47_251_200 + 2_098_176),
        Extra(above=knowledge()),
        folds=ASIDE,
        no_gradient=KEYS,
    ),
    "k_adapter two": Row(
        aj.KAdapter(adapters=("factual", "linguistic"), layers=(0, 1, 3), inner=8, inner_heads=2, skip=3),
        None,
        aj.KAdapter(adapters=("factual", "linguistic")),
        (2 * 46_070_784 + 3 * 1_180_416, 2 * 47_251_200 + 3 * 2_098_176),
        folds=ASIDE,
        no_gradient=KEYS,
    ),
    "k_adapter add": Row(
        aj.KAdapter(inner=8, combine="add"),
        None,
        aj.KAdapter(combine="add"),
        (46_070_784, 47_251_200),
        folds=ASIDE,
        no_gradient=KEYS,
    ),
    "k_adapter downstream": Row(
        aj.KAdapter(adapters=("factual", "linguistic"), inner=8, train_adapters=False), None, folds=ASIDE
    ),
    "k_adapter tuned": Row(
        aj.KAdapter(inner=8, train_adapters=False, tune_backbone=True),
        None,
        aj.KAdapter(train_adapters=False, tune_backbone=True),
        (109_482_240 + 47_251_200, 335_141_888 + 49_349_376),
        folds=ASIDE,
        no_gradient=KEYS,
    ),
    "compose": Row(
        aj.compose(aj.LoRA(rank=4), aj.LoRA(rank=2), aj.Houlsby(bottleneck=8, layers=(1, 2)), aj.Lin(bottleneck=4)),
        NEAR,
        aj.compose(aj.LoRA(), aj.IA3()),
        (294_912 + 55_296, 786_432 + 147_456),
        Extra(rank=QV, scaled=("key", "value", "ffn_in")),
    ),
    "compose folding": Row(aj.compose(aj.LoRA(rank=4), aj.LoRA(slots=("query", "key"), rank=2)), 0.0, folds="both"),
    "stack": Row(
        aj.Stack((aj.Frozen(aj.Pfeiffer(bottleneck=8)), aj.Pfeiffer(bottleneck=4))),
        SMALL,
        aj.Stack((aj.Frozen(aj.Pfeiffer()), aj.Pfeiffer())),
        (2 * 894_528, 2 * 3_171_840),
    ),
    "stack of others": Row(aj.Stack((aj.Houlsby(bottleneck=8), aj.LoRA(rank=4), aj.Lin(bottleneck=4))), NEAR),
    "fusion": Row(
        aj.Fusion((aj.Pfeiffer(bottleneck=8), aj.Pfeiffer(bottleneck=4)), ("mnli", "qqp")),
        SMALL,
        aj.Fusion((aj.Pfeiffer(), aj.Pfeiffer()), ("mnli", "qqp")),
        (2 * 894_528 + 21_252_096, 2 * 3_171_840 + 75_546_624),
        no_gradient={"key/bias": "a shift of all scores alike, which softmax does not see"},
    ),
    "adapter_drop": Row(
        aj.AdapterDrop(aj.Pfeiffer(bottleneck=8), drop=1),
        SMALL,
        aj.AdapterDrop(aj.Pfeiffer(), drop=6),
        (894_528 // 2, 3_171_840 * 18 // 24),
    ),
    "frozen": Row(aj.Frozen(aj.Pfeiffer(bottleneck=8)), SMALL, aj.Frozen(aj.Pfeiffer()), (894_528, 3_171_840)),
    "full": Row(
        aj.Full(),
        0.0,
        aj.Full(),
        (109_482_240, 335_141_888),
        Extra(),
        folds="both",
        no_gradient=KEYS,
    ),
    "head": Row(aj.HeadOnly(), 0.0, aj.HeadOnly(), (0, 0), Extra(), folds="both"),
}
PARAMETERS: Callable[[str], list[str]] = lambda field: [
    name for name, row in ROWS_BY_NAME.items() if getattr(row, field) is not None
]
