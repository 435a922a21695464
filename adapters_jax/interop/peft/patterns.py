"""Regular expressions that a stranger wrote: matched only where that is surely quick.

Python's matcher goes back and tries again, and some expressions make it do so for ages. An expression's cost is the
base-2 logarithm of the most ways it can try on a name of 64 characters, none of whose repeats stands around a group:

    repeats (* + {) r, optional parts o, groups g, alternatives a:      64^r / r!  *  2^o  *  (1 + a)^g
"""

import functools
import math
import re
import warnings

MOST = 20.0
"""The dearest expression that is matched: some hundredths of a second."""

LONGEST = 1 << 14
"""Characters of an expression; the names of all dense layers of BERT-large have some 6,000."""


@functools.lru_cache(maxsize=1024)
def cost(pattern: str) -> float:
    """The cost of an expression; infinite for what is none, is longer than LONGEST, or could be exponential."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError, Warning):
        return math.inf
    single = re.sub(r"\[\^?\]?[^\]]*\]", "x", re.sub(r"\\.", "x", pattern))  # escapes and sets: one character each
    plain = single.replace("(?:", "(")
    exponential = re.search(r"\)[*+{]|\(\?", plain) or re.search(r"\\[1-9]", pattern)
    if len(pattern) > LONGEST or exponential:
        return math.inf
    repeats = len(re.findall(r"[*+{]", plain))
    ways = repeats * 6 - math.log2(math.factorial(min(repeats, 64)))
    return ways + plain.count("?") + plain.count("(") * math.log2(1 + plain.count("|"))


def ending(pattern: str) -> str:
    """The expression by which peft reads a key of `rank_pattern` and `alpha_pattern`: of the end of a name."""
    return rf"(.*\.)?({pattern})$"
