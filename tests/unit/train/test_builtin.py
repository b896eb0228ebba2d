"""The recipes of this package: loaded by name, only with the code that was signed, strict about what they are given."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tests.integration.train.small_job import EXAMPLES, a_round, train_spec

from stannary import builtin
from stannary.errors import SpecError
from stannary.train import recipe
from stannary.train.round import run_round

SMALL = {"width": 16, "layers": 1, "heads": 2, "context": 16, "buckets": 64}


@pytest.fixture(name="corpus")
def fixture_corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus"
    path.write_bytes(b"to be, or not to be, that is the question. " * 40)
    return path


def settings(**changes):
    made = train_spec().recipe
    return dataclasses.replace(
        made, **{"entry": "builtin:bytegpt", "code": builtin.code_digest(), "options": dict(SMALL), **changes}
    )


def test_every_recipe_of_the_package_is_named_and_loads(corpus, tmp_path):
    """What `names` lists is there, and nothing of a work directory is looked at."""
    assert builtin.names() == ("bytegpt",)
    for name in builtin.names():
        made = recipe.load(tmp_path / "nowhere", settings(entry=f"builtin:{name}"), {"corpus": corpus})
        assert made.num_examples > 0


def test_it_trains_like_the_recipe_it_was_made_from(corpus):
    """The same bytes as examples/hello, which a buyer brings himself."""
    theirs = settings(entry="recipe.py:recipe", code=None)
    inputs = {"corpus": corpus}
    ours = run_round(recipe.load(Path("/"), settings(), inputs), a_round(0), settings(), None)
    other = run_round(recipe.load(EXAMPLES / "hello", theirs, inputs), a_round(0), theirs, None)
    assert ours.outputs == other.outputs


def test_another_version_of_the_code_is_refused(corpus):
    """A node whose package differs from the buyer's never computes something else in its name."""
    with pytest.raises(SpecError, match="another code of the recipe than was signed"):
        recipe.load(Path("/"), settings(code="sha256:" + "0" * 64), {"corpus": corpus})
    with pytest.raises(SpecError, match="names no built-in recipe"):
        recipe.load(Path("/"), settings(entry="builtin:other"), {"corpus": corpus})


def test_the_digest_covers_every_file_that_decides_a_bit(tmp_path, monkeypatch):
    """A changed, added or renamed file of train/ is another code."""
    seen = {builtin.code_digest()}
    for change in ("round.py", "recipes/bytegpt.py", "recipes/another.py"):
        copied = tmp_path / change.replace("/", "-")
        for path in builtin.TRAIN.rglob("*.py"):
            target = copied / path.relative_to(builtin.TRAIN)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        with (copied / change).open("ab") as file:
            file.write(b"\n")
        monkeypatch.setattr(builtin, "TRAIN", copied)
        seen.add(builtin.code_digest.__wrapped__())
    assert len(seen) == 4


@pytest.mark.parametrize(
    "options",
    [{"widht": 16}, {"width": 0}, {"width": "16"}, {"width": True}, {"width": 18, "heads": 4}, {"layers": 2**40}],
)
def test_options_that_make_no_model_are_refused_in_our_words(corpus, options):
    """A misspelled or impossible size is named."""
    with pytest.raises(SpecError, match=next(iter(options))):
        recipe.load(Path("/"), settings(options={**SMALL, **options}), {"corpus": corpus})


def test_inputs_that_make_no_data_are_refused_in_our_words(corpus, tmp_path):
    """No corpus, two of them, or one shorter than a window."""
    short = tmp_path / "short"
    short.write_bytes(b"abc")
    for inputs in ({}, {"corpus": corpus, "more": corpus}, {"corpus": short}):
        with pytest.raises(SpecError, match="corpus"):
            recipe.load(Path("/"), settings(), inputs)


def test_a_loss_of_any_example_is_finite(corpus):
    """The last window still has its target."""
    made = recipe.load(Path("/"), settings(), {"corpus": corpus})
    model = recipe.build(made, settings(), None)
    assert torch.isfinite(made.loss(model, [0, made.num_examples - 1]))
    assert made.evaluate(model)["heldout_bits_per_byte"] == pytest.approx(8.0)
