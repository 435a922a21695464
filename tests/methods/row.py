"""What the conformance suite is told of a method."""

import dataclasses

import adapters_jax as aj
from tests.methods.products import Extra

BETWEEN = "its modules stand between the layers' own"
BESIDE = "its keys and values stand beside the layers' own"
FRONT = "its rows stand in front of the text"
ASIDE = "its networks stand beside the encoder"


@dataclasses.dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        tiny: as it is tried, on three layers of width 16.
        start: how far from the plain backbone a fresh one is, as an absolute bound on hidden states; 0: not at all.
            None: it differs, as it must.
        published: as it is counted; None where another row counts the same.
        counts: parameters on BERT-base and BERT-large, without the head.
        extra: the matrix products that it adds on SHORT_BASE.
        folds: how it folds: "both" ways, "forth", or why it does not, in the method's own words.
        no_gradient: trained leaves without a gradient, and why.
        quantize: how the backbone is quantised, wherever the row is tried.
    """

    tiny: aj.Method
    start: float | None
    published: aj.Method | None = None
    counts: tuple[int, int] | None = None
    extra: Extra | None = None
    folds: str = BETWEEN
    no_gradient: dict[str, str] = dataclasses.field(default_factory=dict)
    quantize: str | None = None
