"""A generated three-way inference task (entailment, neutral, contradiction), for demonstrations and tests.

Each family of templates draws the hypothesis first, in a way that does not depend on the label, and then a premise
that gives the pair its label: what a hypothesis says tells nothing about its label, and a word of the premise tells
next to nothing, so that only the relation between the two helps: synonyms, antonyms and negation, verbs that say
whether a thing was done, quantifiers, comparatives, kinds of things, order in time.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from adapters_jax.data.source import Features, ListSource, Splits

FEATURES = Features(("text", "text_pair"), ("entailment", "neutral", "contradiction"))
ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)
# One premise in six belongs to the dev set, whatever the seed and the sizes: no two splits can share a premise.
DEV_SHARE = 6

# Measured with MiniLM: at 1e-3 a Houlsby adapter in batches of 16 stayed at chance.
RECIPES: Mapping[str, Mapping[str, float]] = {
    "houlsby": {"epochs": 3.0, "lr": 5e-4},
    "head": {"epochs": 3.0, "lr": 1e-2},
}
"""Method -> what it needs here otherwise than its own recipe says."""

PEOPLE = (
    "Anna Ben Carla David Emma Frank Grace Henry Irene Jack Karen Liam Maria Noah Olivia Paul Rachel Samuel Tina "
    "Victor Alice Bruno Diana Felix Helen Ivan Julia Kevin Laura Martin Nina Oscar Peter Rosa Simon Thomas Vera Walter"
).split()
ROLES = "teacher nurse farmer lawyer singer pilot waiter baker doctor soldier painter student".split()
BUILDINGS = "kitchen library restaurant museum hotel bakery theatre office school hall shop station".split()

# Two poles per scale, two words per pole.
OF_ROLES = (
    (("happy", "cheerful"), ("sad", "unhappy")),
    (("rich", "wealthy"), ("poor", "broke")),
    (("strong", "powerful"), ("weak", "feeble")),
    (("healthy", "well"), ("ill", "sick")),
)
OF_BUILDINGS = (
    (("clean", "spotless"), ("dirty", "filthy")),
    (("big", "large"), ("small", "tiny")),
    (("quiet", "silent"), ("noisy", "loud")),
    (("empty", "deserted"), ("full", "crowded")),
)
COMPARATIVES = (
    ("taller", "shorter"),
    ("older", "younger"),
    ("faster", "slower"),
    ("richer", "poorer"),
)

# Infinitive, past.
ACTIONS = (
    ("open the window", "opened the window"),
    ("lock the door", "locked the door"),
    ("feed the cat", "fed the cat"),
    ("pay the bill", "paid the bill"),
    ("write the report", "wrote the report"),
    ("clean the kitchen", "cleaned the kitchen"),
    ("call the doctor", "called the doctor"),
    ("buy the tickets", "bought the tickets"),
    ("repair the car", "repaired the car"),
    ("win the race", "won the race"),
    ("cook the dinner", "cooked the dinner"),
    ("sell the house", "sold the house"),
    ("catch the train", "caught the train"),
    ("find the key", "found the key"),
    ("paint the fence", "painted the fence"),
    ("answer the question", "answered the question"),
)
TIMES = ("that day", "at noon", "on Monday", "last week", "last night")
DONE = ("managed to", "remembered to", "was able to")
NOT_DONE = ("failed to", "forgot to", "refused to")
OPEN = ("wanted to", "planned to", "hoped to")

GROUPS = "children students tourists workers players guests neighbours soldiers farmers dancers".split()
DEEDS = (
    "wore a hat",
    "spoke French",
    "left early",
    "ate an apple",
    "carried a bag",
    "sang a song",
    "bought a map",
    "drank tea",
    "rode a bicycle",
    "waved a flag",
    "told a joke",
    "missed the bus",
)
OCCASIONS = "breakfast lunch dinner work school sunset midnight Christmas Easter".split()
EVENTS = ("the game", "the party", "the concert", "the meeting", "the exam", "the storm", "the wedding")

# Kind -> members; no member of one kind is one of another.
KINDS = {
    "bird": ("parrot", "sparrow", "pigeon", "eagle", "swan"),
    "fish": ("trout", "salmon", "shark", "tuna", "carp"),
    "vehicle": ("truck", "bus", "car", "tractor", "motorcycle"),
    "fruit": ("banana", "pear", "peach", "cherry", "lemon"),
    "tool": ("hammer", "screwdriver", "saw", "wrench", "drill"),
    "flower": ("rose", "tulip", "daisy", "lily", "orchid"),
}

Draw = np.random.RandomState  # its streams are frozen for good (NEP 19)
Pair = tuple[str, str]


def _one(draw: Draw, items: Sequence) -> Any:
    return items[draw.randint(len(items))]


def _some(draw: Draw, items: Sequence, count: int) -> list:
    return [items[i] for i in draw.permutation(len(items))[:count]]


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _scale(draw: Draw, label: int) -> Pair:
    """Synonyms, antonyms and negation: "was spotless" entails "was clean" and contradicts "was dirty"."""
    scales, nouns = _one(draw, ((OF_ROLES, ROLES), (OF_BUILDINGS, BUILDINGS)))
    noun, (scale, other) = _one(draw, nouns), _some(draw, scales, 2)
    pole, negated = draw.randint(2, size=2)
    word = _one(draw, scale[pole])
    hypothesis = f"The {noun} was {'not ' * negated}{word}."
    if label == NEUTRAL:
        word = _one(draw, _one(draw, other))
    elif label == CONTRADICTION and (negated or draw.randint(2)):
        negated = 1 - negated
    elif label == CONTRADICTION:
        word = _one(draw, scale[1 - pole])
    elif not negated:
        # Under a negation only the word itself will do: what is not spotless may still be clean.
        word = _one(draw, scale[pole])
    return f"The {noun} was {'not ' * negated}{word} {_one(draw, TIMES)}.", hypothesis


def _implicative(draw: Draw, label: int) -> Pair:
    """Verbs that say whether the thing was done: "forgot to pay" contradicts "paid"."""
    person, (action, other) = _one(draw, PEOPLE), _some(draw, ACTIONS, 2)
    negated = draw.randint(2)
    hypothesis = f"{person} did not {action[0]}." if negated else f"{person} {action[1]}."
    failed = draw.randint(2) if label == NEUTRAL else negated ^ (label == CONTRADICTION)
    if label == NEUTRAL and draw.randint(4) == 0:
        return f"{person} {_one(draw, OPEN)} {action[0]}.", hypothesis
    if label == NEUTRAL:
        action = other
    if draw.randint(2):
        return f"{person} {_one(draw, (DONE, NOT_DONE)[failed])} {action[0]}.", hypothesis
    return f"{person} {f'did not {action[0]}' if failed else action[1]} {_one(draw, TIMES)}.", hypothesis


def _quantifier(draw: Draw, label: int) -> Pair:
    """All, some, none."""
    group, (deed, other) = _one(draw, GROUPS), _some(draw, DEEDS, 2)
    every, no = ("All of the", "All the", "Simply all of the"), ("None of the", "No", "Not one of the")
    wording, follows, excluded = _one(draw, (("Some", every, no), ("All", every, no), ("None", no, every)))
    quantifier = _one(draw, (follows, every + no, excluded)[label])
    return f"{quantifier} {group} {other if label == NEUTRAL else deed}.", f"{wording} of the {group} {deed}."


def _comparative(draw: Draw, label: int) -> Pair:
    """Comparatives and their opposites."""
    (a, b, c), (scale, other) = _some(draw, PEOPLE, 3), _some(draw, COMPARATIVES, 2)
    pole = draw.randint(2)
    hypothesis = f"{a} is {scale[pole]} than {b}."
    if label == CONTRADICTION:
        pole = 1 - pole
    elif label == NEUTRAL:
        b, scale = (c, scale) if draw.randint(2) else (b, other)
    return f"{a} is {_one(draw, ('much', 'clearly', 'far'))} {scale[pole]} than {b}.", hypothesis


def _kind(draw: Draw, label: int) -> Pair:
    """Kinds of things: a parrot is a bird, a bird need not be a parrot, a parrot is no fish."""
    kind, other = _some(draw, tuple(KINDS), 2)
    member, sibling = _some(draw, KINDS[kind], 2)
    (person, another), narrow = _some(draw, PEOPLE, 2), draw.randint(2)
    hypothesis = f"The thing that {person} drew is {_article(member if narrow else kind)}."
    thing = f"a big {member}" if narrow else _article(member)
    if label == CONTRADICTION:
        thing = _article(_one(draw, (other, sibling if narrow else other, *KINDS[other])))
    elif label == NEUTRAL and narrow and draw.randint(2):
        thing = _article(kind)
    elif label == NEUTRAL:
        person = another
    return f"{person} drew {thing}.", hypothesis


def _order(draw: Draw, label: int) -> Pair:
    """Before and after."""
    person, (action, another) = _one(draw, PEOPLE), _some(draw, ACTIONS, 2)
    occasion, other = _some(draw, _one(draw, (OCCASIONS, EVENTS)), 2)
    side = draw.randint(2)
    hypothesis = f"{person} {action[1]} {('before', 'after')[side]} {occasion}."
    if label == CONTRADICTION:
        side = 1 - side
    elif label == NEUTRAL:
        action, occasion = (another, occasion) if draw.randint(2) else (action, other)
    word = (("before", "just before"), ("after", "right after"))[side]
    return f"{person} {action[1]} {_one(draw, word)} {occasion}.", hypothesis


FAMILIES: tuple[Callable[[Draw, int], Pair], ...] = (
    _scale,
    _implicative,
    _quantifier,
    _comparative,
    _kind,
    _order,
)


def toy_rows(split: str, count: int, seed: int = 0) -> list[dict]:
    """The rows of one split, balanced over labels and families of templates.

    Args:
      split: "train" or "dev"; no premise of one is a premise of the other, whatever their seeds.
      count: number of rows; labels differ in number by one at most.
      seed: same seed, same rows.
    """
    draw = np.random.RandomState([seed, ("train", "dev").index(split)])
    rows: list[dict] = []
    seen: set[Pair] = set()
    while len(rows) < count:
        label, family = len(rows) % 3, FAMILIES[len(rows) // 3 % len(FAMILIES)]
        pair = family(draw, label)
        is_dev = zlib.crc32(pair[0].encode()) % DEV_SHARE == 0
        if is_dev == (split == "dev") and pair not in seen:
            seen.add(pair)
            rows.append({"id": family.__name__[1:], "text": pair[0], "text_pair": pair[1], "label": label})
    shuffled = [rows[i] for i in draw.permutation(count)]
    return [row | {"id": f"{split}-{i}-{row['id']}"} for i, row in enumerate(shuffled)]


def toy_splits(seed: int = 0, train: int = 3000, dev: int = 600) -> Splits:
    """Train and dev rows of the generated task; see `toy_rows`."""
    sources = {
        split: ListSource(toy_rows(split, count, seed), FEATURES, f"toy/{split}")
        for split, count in (("train", train), ("dev", dev))
    }
    return Splits(sources["train"], {"": sources["dev"]})
