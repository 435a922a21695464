r"""Regular expressions that a stranger wrote, matched without going back, so that none takes ages.

The places of a name at which a part of an expression may begin are the bits of a number, and so are those at which it
may end. All ways are followed at once: each part costs a step, once for each turn of the repeats around it, which are
at most as many as a name has characters. `Work` counts the steps, and ends what takes too many.

Known: characters, sets, \d \w \s . ^ $ \b, groups, alternatives, repeats, lookaheads. Whether a whole name matches is
then what `re.fullmatch` says. Unknown: flags, lookbehinds, references to groups, atomic groups.
"""

import dataclasses
import functools
import itertools
import operator
import re
import warnings
from collections.abc import Iterator
from typing import Any

STEPS = 1 << 21
"""Steps that all expressions of a config may take together, some two seconds; ours, on BERT-large, take 70,000, and the
names of all its modules after each other 1.3 million."""

LONGEST = 1 << 15
"""Characters of an option's expressions together; the names of all dense layers of BERT-large have some 6,000."""

MANY = 1 << 10
"""Expressions of one option; BERT-large has 144 dense layers."""

TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?(?:P<\w+>|[:=!]))?|(?:[*+?]|\{(?:[0-9]+(?:,[0-9]*)?|,[0-9]*)\})[?+]?|.",
    re.DOTALL,
)
"""An escape, a set, what opens a group, a repeat, or one character."""

REPEATS = {"*": (0, None), "+": (1, None), "?": (0, 1)}

Part = tuple[Any, ...]
"""("text", characters), ("set", what one character matches), ("at", a condition), ("all", parts), ("any", parts),
("ahead", part, whether it must match), ("repeat", part, least turns, most)."""


class Unfit(ValueError):
    """An expression that is none, has parts that are unknown here, or takes too long."""


@dataclasses.dataclass(frozen=True)
class Name:
    """A module's name while expressions are held against it.

    Attributes:
        places: character -> the bits of its places.
        sets: the same of sets of characters, as they are asked for.
    """

    text: str
    places: dict[str, int]
    sets: dict[str, int]


class Work:
    """The names that a config's expressions are held against, and the steps that are left."""

    def __init__(self, steps: int = STEPS) -> None:
        self.steps = steps
        self._names: dict[str, Name] = {}

    def matches(self, part: Part, text: str) -> bool:
        """Whether the whole text matches.

        Raises:
            Unfit: too many steps.
        """
        return bool(self._ends(part, self._name(text), 1) >> len(text))

    def ends(self, part: Part, text: str) -> bool:
        """Whether the text matches, or the end of it behind a dot: what peft looks for with `(.*\\.)?(...)$`.

        Raises:
            Unfit: too many steps.
        """
        name = self._name(text)
        return bool(self._ends(part, name, 1 | name.places.get(".", 0) << 1) >> len(text))

    def _name(self, text: str) -> Name:
        if text not in self._names:
            places: dict[str, int] = {}
            for at, char in enumerate(text):
                places[char] = places.get(char, 0) | 1 << at
            self._names[text] = Name(text, places, {})
        return self._names[text]

    def _step(self, count: int = 1) -> None:
        self.steps -= count
        if self.steps < 0:
            raise Unfit("too many steps")

    def _ends(self, part: Part, name: Name, at: int) -> int:
        """Where a part may end that begins at the places `at`."""
        self._step()
        match part:
            case "text", text:
                each = self._each(at & name.places.get(text[0], 0))
                return sum(1 << place + len(text) for place in each if name.text.startswith(text, place))
            case "set", atom:
                if atom not in name.sets:
                    self._step(len(name.places))
                    found = _compiled(atom)
                    name.sets[atom] = sum(bits for char, bits in name.places.items() if found.match(char))
                return (at & name.sets[atom]) << 1
            case "at", atom:
                each = self._each(at)
                return sum(1 << place for place in each if _compiled(atom).match(name.text, place))
            case "all", parts:
                for inner in parts:
                    at = self._ends(inner, name, at) if at else 0
                return at
            case "any", parts:
                return functools.reduce(operator.or_, [self._ends(inner, name, at) for inner in parts])
            case "ahead", inner, wanted:
                each = self._each(at)
                return sum(1 << place for place in each if bool(self._ends(inner, name, 1 << place)) == wanted)
            case _:
                return self._repeated(part, name, at)

    def _each(self, at: int) -> list[int]:
        if not at:
            return []
        self._step(at.bit_length())
        return [place for place in range(at.bit_length()) if at >> place & 1]

    def _repeated(self, part: Part, name: Name, at: int) -> int:
        """Places only move on, so that more turns than a name has places change nothing."""
        _, inner, least, most = part
        turns = len(name.text) + 1
        for _ in range(min(least, turns)):
            at = self._ends(inner, name, at) if at else 0
        new = at
        for _ in range(turns if most is None else min(most - least, turns)):
            new = self._ends(inner, name, new) & ~at if new else 0
            at |= new
        return at


_compiled = functools.lru_cache(maxsize=1024)(re.compile)


def parsed(pattern: str) -> Part:
    """An expression: its alternatives.

    Raises:
        Unfit: see there.
    """
    if len(pattern) > LONGEST:
        raise Unfit("too long")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern)
            tokens = TOKEN.findall(pattern)[::-1]
            return _alternatives(tokens)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise Unfit(str(error)) from None


def _alternatives(tokens: list[str]) -> Part:
    """What stands up to the end of the group; `tokens` are taken from their end."""
    found: list[list[Part]] = [[]]
    while tokens and tokens[-1] != ")":
        token = tokens.pop()
        if token == "|":
            found.append([])
        elif token.startswith("(") and tokens and tokens[-1] != "?":
            inner = _alternatives(tokens)
            tokens.pop()
            found[-1].append(("ahead", inner, token == "(?=") if token in ("(?=", "(?!") else inner)
        elif token[0] in "*+?" or (token[0] == "{" and len(token) > 1):
            if token[1:] == "+" or token.endswith("}+") or not found[-1]:
                raise Unfit("a repeat of another kind")
            found[-1].append(("repeat", found[-1].pop(), *_counts(token)))
        else:
            found[-1].append(_one(token))
    return "any", tuple(("all", tuple(_joined(parts))) for parts in found)


def _joined(parts: list[Part]) -> Iterator[Part]:
    """Characters after each other as one text."""
    for is_text, each in itertools.groupby(parts, lambda part: part[0] == "text"):
        found = list(each)
        yield from [("text", "".join(text for _, text in found))] if is_text else found


def _counts(token: str) -> tuple[int, int | None]:
    if token[0] != "{":
        return REPEATS[token[0]]
    least, comma, most = token[1 : token.index("}")].partition(",")
    return int(least or 0), int(most) if most else None if comma else int(least)


def _one(token: str) -> Part:
    """A character, a set, or a condition."""
    if token in ("^", "$", r"\A", r"\Z", r"\b", r"\B"):
        return "at", token
    if token == "(" or (token[0] == "\\" and token[1].isalnum() and token[1] not in "dDwWsS"):
        raise Unfit(f"{token} is unknown")
    if token == "." or token[0] == "[" or (token[0] == "\\" and token[1].isalnum()):
        return "set", token
    return "text", token[-1]
