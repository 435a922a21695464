"""Which words masked language modelling hides (Devlin et al., 2019, section 3.1 and appendix A.1).

Of a row's n eligible tokens `quota(n)` are chosen; of those 80 % become [MASK], 10 % a random word, 10 % stay. Every
draw is a hash of (the step's key, the row's number, the place), so that a row's masks depend neither on the company of
the row in its batch, nor on the batch's length, nor, in evaluation, on the platform's generator. JAX's own generators
would cost seconds of compilation for each length.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from adapters_jax.types import Array, Batch, Bool, Int, Key

RATE = 0.15
MASKED, RANDOM = 0.8, 0.1
"""Shares of the chosen tokens; the rest stays as it is, though it is predicted. All as published."""

FIXED = (0x9E3779B9, 0x243F6A88)
"""Stands for the key in evaluation; digits of the golden ratio and of pi."""

INPUTS = ("row", "words")
"""Arrays that a batch needs: `row` [b], a number that stays with the row; `words` [b t], for each token the number of
its word in the row, from 1 and ascending, 0 where nothing is to be hidden."""


def quota(tokens: int) -> int:
    """How many of a row's eligible tokens are chosen: 15 %, rounded to even, at least one."""
    return max(1, round(RATE * tokens)) if tokens else 0


@functools.cache
def quotas(most: int) -> np.ndarray:
    """`quota` of 0 to `most` tokens, int32 [most + 1]."""
    return np.array([quota(tokens) for tokens in range(most + 1)], np.int32)


def hide(batch: Batch, key: Key | None, mask_id: int, vocab_size: int, whole_word: bool) -> Batch:
    """The batch with words hidden, and what they were.

    Args:
        batch: with `INPUTS`.
        key: of the step; None for a row's fixed masks.
        mask_id: of [MASK].
        vocab_size: random words are drawn from 0 to vocab_size - 1.
        whole_word: choose all pieces of a word or none. Words come in random order, and those that the quota has no
            room for are passed over: where many are long, fewer tokens are chosen.

    Returns:
        The batch with its input_ids changed, and with K = quota(t) places a row: positions and targets, int32 [b K],
        and chosen [b K], False where a place is not used.
    """
    ids, words, rows = (jnp.asarray(batch[name], jnp.int32) for name in ("input_ids", "words", "row"))
    length = ids.shape[1]
    seed = jnp.array(FIXED, jnp.uint32) if key is None else jax.random.bits(key, (2,), jnp.uint32)

    eligible = words > 0
    places = jnp.broadcast_to(jnp.arange(length), words.shape)
    turn = _draw(seed, 0, rows, words if whole_word else places) >> 1
    order = jnp.argsort(jnp.where(eligible, turn, jnp.uint32(2**32 - 1)), axis=1)  # stable: pieces stay together
    wanted = jnp.asarray(quotas(length))[eligible.sum(1)]
    if whole_word:
        fitting = _that_fit(jnp.take_along_axis(words, order, 1), wanted)
        order = jnp.take_along_axis(order, jnp.argsort(~fitting, axis=1), 1)
        wanted = fitting.sum(1)
    used = max(1, quota(length))
    positions = order[:, :used].astype(jnp.int32)
    chosen = jnp.arange(used)[None] < wanted[:, None]

    targets = jnp.take_along_axis(ids, positions, 1)
    share = lambda part: jnp.uint32(part * 2**32)
    action, word = (_draw(seed, stream, rows, positions) for stream in (1, 2))
    word = (word % jnp.uint32(vocab_size)).astype(jnp.int32)
    shown = jnp.where(action < share(MASKED), mask_id, jnp.where(action < share(MASKED + RANDOM), word, targets))
    shown = jnp.where(chosen, shown, targets)
    hidden = ids.at[jnp.arange(ids.shape[0])[:, None], positions].set(shown)
    return dict(batch) | {"input_ids": hidden, "positions": positions, "targets": targets, "chosen": chosen}


def _draw(seed: Array, stream: int, rows: Int[Array, " b"], places: Int[Array, "b p"]) -> Array:
    """Random bits, uint32 [b p], by row and place; of one row, different at every place."""
    rows, places = rows.astype(jnp.uint32), places.astype(jnp.uint32)
    return _mix(_mix(_mix(rows + seed[0]) ^ (seed[1] + jnp.uint32(stream)))[:, None] ^ places)


def _mix(x: Array) -> Array:
    """MurmurHash3's 32-bit finaliser (Appleby, 2011, public domain): a bijection."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _that_fit(words: Int[Array, "b t"], room: Int[Array, " b"]) -> Bool[Array, "b t"]:
    """Which tokens are taken if words, their pieces one after the other, are taken in turn while there is room."""
    sizes = (words[:, :, None] == words[:, None, :]).sum(2)
    first = jnp.concatenate([jnp.ones_like(words[:, :1], bool), words[:, 1:] != words[:, :-1]], 1)

    def step(state: tuple, token: tuple) -> tuple:
        count, taking = state
        begins, size, word = token
        taking = jnp.where(begins, (word > 0) & (count + size <= room), taking)
        return (jnp.where(taking, count + 1, count), taking), taking

    start = (jnp.zeros_like(room), jnp.zeros(room.shape, bool))
    return jax.lax.scan(step, start, (first.T, sizes.T.astype(room.dtype), words.T))[1].T
