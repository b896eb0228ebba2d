"""A job with a built-in recipe: no code in it is its buyer's, on the client, at the market and by the specification."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.second_verifier import shapes
from tests.second_verifier.values import Malformed

from stannary.errors import SpecError
from stannary.formats import jobfile, jobspec
from stannary.formats.digest import digest
from stannary.formats.jobspec import Input
from stannary.formats.workdir import WorkFile

FILE: dict[str, Any] = {
    "kind": "train",
    "recipe": {"entry": "builtin:bytegpt", "rounds": 2, "lanes": 2},
    "inputs": {"corpus": {"module": "pydoc_data.topics"}},
}
CODE = digest(b"code")
CORPUS = {"corpus": Input(digest(b"corpus"), 6, "module pydoc_data.topics")}
OWN = WorkFile("recipe.py", 0o644, digest(b"recipe"), 6)


def signed() -> dict[str, Any]:
    """Return the members of such a job as they are signed."""
    return copy.deepcopy(jobspec.to_canonical(jobfile.parse(FILE).resolve([], CORPUS, CODE)))


def test_it_is_read_as_it_was_written():
    """The digest of the code is signed; no work directory travels."""
    spec = jobspec.from_canonical(signed())
    assert spec.recipe is not None
    assert (spec.recipe.builtin, spec.recipe.file, spec.recipe.code, spec.workdir) == ("bytegpt", None, CODE, ())
    shapes.check_spec(signed())


def own_code(spec: dict[str, Any]) -> None:
    spec["workdir"] = [{"path": OWN.path, "mode": OWN.mode, "digest": OWN.digest, "size_bytes": OWN.size_bytes}]


def own_packages(spec: dict[str, Any]) -> None:
    own_code(spec)
    spec["setup"] = "recipe.py"


def own_variables(spec: dict[str, Any]) -> None:
    spec["envs"] = {"MKL_CBWR": "AVX2"}


def no_code(spec: dict[str, Any]) -> None:
    del spec["recipe"]["code"]


def no_digest(spec: dict[str, Any]) -> None:
    spec["recipe"]["code"] = "sha256:00"


def a_path(spec: dict[str, Any]) -> None:
    spec["recipe"]["entry"] = "builtin:../recipe"


def code_of_ones_own(spec: dict[str, Any]) -> None:
    own_code(spec)
    spec["recipe"]["entry"] = "recipe.py:recipe"


@pytest.mark.parametrize("harm", [own_code, own_packages, own_variables, no_code, no_digest, a_path, code_of_ones_own])
def test_what_would_let_the_buyer_decide_a_bit_is_refused(harm):
    """Files, packages, variables, another name, or code that is not named: refused by both readers of a spec."""
    spec = signed()
    harm(spec)
    with pytest.raises(SpecError):
        jobspec.from_canonical(spec)
    with pytest.raises(Malformed):
        shapes.check_spec(spec)


@pytest.mark.parametrize("more", [{"workdir": "."}, {"setup": "requirements.txt"}, {"envs": {"A": "b"}}])
def test_the_job_file_says_so_at_once(more):
    """The line that does not fit is named before anything is read or sent."""
    with pytest.raises(SpecError, match=f"^{next(iter(more))} belongs to a program of your own"):
        jobfile.parse({**FILE, **more})
