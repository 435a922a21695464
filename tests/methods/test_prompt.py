"""Prompt tuning: the definition in numpy, what is read, fresh values, ensembles and their votes, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adapters_jax as aj
from adapters_jax import fields, optim, trees
from adapters_jax.errors import ConfigError
from tests.methods import numpy_bert
from tests.methods.tiny import BACKBONE, BATCH, THREE, TINY, run
from tests.methods.tiny import fresh_model as tiny

WORDS = np.asarray(BACKBONE["embeddings"]["words"])


def rows_of(method):
    return np.asarray(tiny(method)[1]["adapters"]["embed"]["prompt"])


def tokenize(text):
    """A letter is a token: a is 6, b is 7, ..."""
    return [ord(letter) - 91 for letter in text if letter.isalpha()]


@pytest.mark.parametrize("read", ["cls", "first"])
@pytest.mark.parametrize("insertion", ["words", "encoder"])
def test_the_definition(insertion, read):
    model, params = tiny(aj.Prompt(length=5, insertion=insertion, read=read))
    prompt = np.asarray(params["adapters"]["embed"]["prompt"], float)
    expected = numpy_bert.forward(BACKBONE, TINY, BATCH, prompt=prompt, place=insertion)
    output = run(model, params)
    assert output.hidden.shape == (3, 12, 16)
    if read == "cls":
        numpy_bert.assert_tokens_agree(output.hidden, expected, BATCH["mask"], front=5)
    row = 5 if read == "cls" else 0
    pooler = {name: np.asarray(leaf, float) for name, leaf in BACKBONE["pooler"].items()}
    pooled = np.tanh(np.stack([x[row] for x in expected]) @ pooler["kernel"] + pooler["bias"])
    np.testing.assert_allclose(output.pooled, pooled, atol=2e-5)
    assert model.max_length == (59 if insertion == "words" else 64)


def test_kept_hidden_states_are_those_of_the_tokens():
    model, params = tiny(aj.Prompt(length=5, read="first"))
    states = model.apply(params, BATCH, hidden_states=True).hidden_states
    assert [state.shape for state in states] == [(3, 12, 16)] * 4


def test_prompts_take_the_first_positions_and_type_0():
    """A prompt of words at "words" is a text with these words in front of [CLS]."""
    model, params = tiny(aj.Prompt(length=2, init="text", text="ab").prepare(tokenize, ()))
    ids = jnp.pad(BATCH["input_ids"], ((0, 0), (2, 0))).at[:, :2].set(jnp.array([[6, 7]]))
    types = jnp.pad(BATCH["token_type_ids"], ((0, 0), (2, 0)))
    mask = jnp.pad(BATCH["mask"], ((0, 0), (2, 0)), constant_values=1)
    plain = aj.Model(TINY, aj.HeadOnly(), THREE)
    text = {"input_ids": ids, "token_type_ids": types, "mask": mask}
    expected = jax.jit(plain.apply)(params | {"adapters": {}}, text).hidden[:, 2:]
    np.testing.assert_allclose(run(model, params).hidden, expected, atol=1e-6)


def test_uniform_and_vocabulary_start():
    rows = rows_of(aj.Prompt(length=100, init="uniform", insertion="encoder"))
    assert 0.45 < abs(rows).max() <= 0.5 and abs(rows.std() * np.sqrt(12) - 1) < 0.05
    rows = rows_of(aj.Prompt(length=100, insertion="encoder"))
    found = [int(np.flatnonzero((row == WORDS).all(1))[0]) for row in rows]
    assert len(set(found)) == 100  # of 128, none twice
    more = rows_of(aj.Prompt(length=200, insertion="encoder"))  # than there are words: some twice
    assert all((row == WORDS).all(1).any() for row in more)


def test_only_frequent_words_are_drawn(monkeypatch):
    monkeypatch.setattr("adapters_jax.methods.prompt.FREQUENT", 20)
    rows = rows_of(aj.Prompt(length=20))
    assert sorted(np.flatnonzero((row == WORDS).all(1))[0] for row in rows) == list(range(20))


def test_text_and_labels_start():
    text = aj.Prompt(length=4, init="text", text="bad").prepare(tokenize, ())
    assert text.init_tokens == ("7", "6", "9")
    rows = rows_of(text)
    np.testing.assert_array_equal(rows[:3], WORDS[[7, 6, 9]])
    assert (rows[3] == WORDS).all(1).any()  # what the text leaves over is drawn
    longer = aj.Prompt(length=2, init="text", text="bad").prepare(tokenize, ())
    np.testing.assert_array_equal(rows_of(longer), WORDS[[7, 6]])
    labels = aj.Prompt(length=4, init="labels").prepare(tokenize, ("no", "yes"))
    assert labels.init_tokens == ("19 20", "30 10 24")
    rows = rows_of(labels)
    np.testing.assert_allclose(rows[0], WORDS[[19, 20]].mean(0), rtol=1e-6)
    np.testing.assert_allclose(rows[1], WORDS[[30, 10, 24]].mean(0), rtol=1e-6)
    assert all((row == WORDS).all(1).any() for row in rows[2:])


def test_a_prepared_method_is_json_and_comes_back():
    method = aj.Prompt(length=4, init="labels", ensemble=2).prepare(tokenize, ("no", "yes"))
    stored = {name: list(v) if isinstance(v, tuple) else v for name, v in method.to_dict().items()}
    assert fields.build("method", aj.METHODS, stored) == method
    assert method.prepare(tokenize, ("no", "yes")) == method
    assert aj.Prompt().prepare(tokenize, ("no", "yes")) == aj.Prompt()


@pytest.mark.parametrize("key", [None, 3])
def test_members_equal_runs_of_their_own(key):
    method = aj.Prompt(length=4, ensemble=3, vote="mean")
    model, params = tiny(method)
    assert trees.flatten(params["adapters"])["embed/prompt"].shape == (3, 4, 16)
    key = None if key is None else jax.random.key(key)
    single = aj.Model(TINY, dataclasses.replace(method, ensemble=1), THREE)
    loss = jax.jit(lambda model, params, key: model.loss(params, BATCH, key)[0], static_argnums=0)
    runs, losses = [], []
    for number in range(3):
        own = jax.tree.map(lambda leaf, n=number: leaf[n], params["adapters"])
        place = None if key is None else trees.fold_path(key, "member", number)
        runs.append(run(single, params | {"adapters": own}, place))
        losses.append(loss(single, params | {"adapters": own}, place))
    output = run(model, params, key)
    shares = np.mean([jax.nn.softmax(own.logits) for own in runs], axis=0)
    np.testing.assert_allclose(output.logits, np.log(shares), atol=1e-5)
    np.testing.assert_allclose(output.hidden, np.mean([own.hidden for own in runs], axis=0), atol=1e-5)
    np.testing.assert_allclose(output.pooled, np.mean([own.pooled for own in runs], axis=0), atol=1e-5)
    assert float(abs(runs[0].logits - runs[1].logits).max()) > 1e-4
    np.testing.assert_allclose(loss(model, params, key), np.mean(losses), rtol=1e-5)


def test_each_member_learns_by_its_own_loss():
    model, params = tiny(aj.Prompt(length=4, ensemble=2))
    single = aj.Model(TINY, aj.Prompt(length=4), THREE)
    loss = lambda model: jax.jit(jax.grad(lambda adapters: model.loss(params | {"adapters": adapters}, BATCH)[0]))
    both = loss(model)(params["adapters"])["embed"]["prompt"]
    for number in range(2):
        own = loss(single)(jax.tree.map(lambda leaf, n=number: leaf[n], params["adapters"]))
        np.testing.assert_allclose(2 * both[number], own["embed"]["prompt"], atol=1e-6)


def probabilities(*rows):
    return jnp.log(jnp.array(rows, jnp.float32))[:, None]


def test_majority_and_its_ties():
    """Three against two, whatever they are sure of; one each: the higher mean probability."""
    votes = probabilities([0.51, 0.49, 0.0], [0.51, 0.49, 0.0], [0.51, 0.49, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0])
    majority, mean = (np.asarray(THREE.combine(votes, vote))[0] for vote in ("majority", "mean"))
    assert (majority.argmax(), mean.argmax()) == (0, 1)
    np.testing.assert_allclose(np.exp(majority), [(3 + 0.306) / 6, (2 + 0.694) / 6, 0], atol=1e-6)
    np.testing.assert_allclose(np.exp(mean), [0.306, 0.694, 0], atol=1e-6)
    tie = probabilities([0.6, 0.3, 0.1], [0.2, 0.7, 0.1])
    assert np.asarray(THREE.combine(tie, "majority"))[0].argmax() == 1
    assert np.asarray(THREE.combine(tie[::-1], "majority"))[0].argmax() == 1


def test_an_answer_stays_finite_where_no_one_believes_in_a_class():
    sure = jnp.array([[[200.0, 0.0, -200.0]], [[300.0, 0.0, -200.0]]])
    for vote in ("majority", "mean"):
        assert np.isfinite(THREE.combine(sure, vote)).all()


def test_regression_averages():
    head = aj.Regression()
    np.testing.assert_allclose(head.combine(jnp.array([[[1.0], [2.0]], [[3.0], [6.0]]]), "majority"), [[2.0], [4.0]])
    model, params = tiny(aj.Prompt(length=4, ensemble=2), head)
    assert run(model, params).logits.shape == (3, 1)


def test_the_published_optimiser():
    """Adafactor of a first step: by the rate, whatever the size of the leaf and of the gradient; decay besides."""
    recipe = aj.Prompt().recipe
    names = ("lr", "warmup", "schedule", "weight_decay", "clip_norm")
    tx, rate = optim.make_optimizer(
        recipe.optimizer, total_steps=30_000, **{name: getattr(recipe, name) for name in names}
    )
    assert rate(0) == rate(29_999) == pytest.approx(0.3)
    with jax.numpy_dtype_promotion("standard"):
        prompt = {"prompt": jnp.full((20, 16), 4.0)}
        gradient = {"prompt": jnp.full((20, 16), 1e-3).at[0, 0].set(-2.0)}
        updates, state = tx.update(gradient, tx.init(prompt), prompt)
        expected = np.full((20, 16), -0.3)
        expected[0, 0] = 0.3
        np.testing.assert_allclose(updates["prompt"], expected - 0.3 * 1e-5 * 4.0, rtol=1e-5)
        # Then v = (1 - b) v + b g^2 with b = 2^-0.8, and the update's root mean square is at most 1.
        updates, _ = tx.update(jax.tree.map(lambda g: 3 * g, gradient), state, optax.apply_updates(prompt, updates))
    b = 2**-0.8
    step = 3 / np.sqrt(1 - b + 9 * b)
    assert abs(float(updates["prompt"][1, 1])) == pytest.approx(0.3 * step / max(1, step), rel=1e-4)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: aj.Prompt(length=0), "method.length: expected a whole number of at least 1, got 0"),
        (lambda: aj.Prompt(init="vocab"), "did you mean 'vocabulary'"),
        (lambda: aj.Prompt(insertion="word"), "did you mean 'words'"),
        (lambda: aj.Prompt(read="last"), "method.read: unknown"),
        (lambda: aj.Prompt(vote="median"), "method.vote: unknown"),
        (lambda: aj.Prompt(ensemble=0), "method.ensemble: expected a whole number of at least 1"),
        (lambda: aj.Prompt(init="text"), "method.text: expected a text"),
        (lambda: aj.Prompt(text="good or bad"), "method.text: expected a text with init=text alone"),
        (lambda: aj.Prompt(init_tokens=("1", "x")), "method.init_tokens: expected ids"),
        (
            lambda: aj.Prompt(length=1, init="labels").prepare(tokenize, ("a", "b")),
            "method.length: expected at least 2",
        ),
        (
            lambda: aj.Prompt(init="labels").prepare(tokenize, ()),
            "method.init: expected labels that the tokenizer knows",
        ),
        (lambda: aj.Prompt(init="labels").prepare(tokenize, ("a", "1")), "got the classes"),
        (lambda: aj.Prompt(init="text", text="12").prepare(tokenize, ()), "method.init: expected text .* got '12'"),
        (lambda: tiny(aj.Prompt(init="labels")), "method.init: labels needs a tokenizer"),
        (lambda: tiny(aj.Prompt(init="text", text="a")), "method.init: text needs a tokenizer"),
        (lambda: aj.Model(TINY, aj.Prompt(init_tokens=("128",)), THREE), "expected ids below 128, got 128"),
        (lambda: aj.Model(TINY, aj.Prompt(length=62), THREE), "method.length: expected at most 61"),
    ],
)
def test_bad_values_are_one_clear_line(make, match):
    with pytest.raises(ConfigError, match=match) as error:
        make()
    assert "\n" not in str(error.value)
