"""The job file: what was likely meant is said, what is not there yet is named."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from stannary.errors import SpecError
from stannary.formats import jobfile, jobspec
from stannary.formats.digest import digest
from stannary.formats.jobspec import Input
from stannary.formats.workdir import WorkFile

TRAIN: dict[str, Any] = {"kind": "train", "recipe": {"entry": "recipe.py:recipe", "rounds": 2}}
ENTRY = WorkFile("recipe.py", 0o644, digest(b"recipe"), 6)


def refusal(**changes: Any) -> SpecError:
    """Return what is said of a command's file with these members."""
    with pytest.raises(SpecError) as caught:
        jobfile.parse({"run": "true", **changes})
    return caught.value


@pytest.mark.parametrize(
    ("resources", "meant"),
    [
        ({"cpus": 1.5}, "did you mean 2?"),
        ({"cpus": "500m"}, "did you mean 1?"),
        ({"cpus": float("inf")}, "did you mean 1?"),
        ({"cpus": 2_000_000}, "did you mean 2000? cores are counted whole"),
        ({"cpus": jobspec.MAX_CPUS + 1}, "ask for fewer"),
        ({"wall_s": "10m"}, "did you mean 600?"),
        ({"wall_s": "1h30m"}, "did you mean 5400?"),
        ({"wall_s": "2 days"}, "did you mean 172800?"),
        ({"wall_s": "1:30"}, "did you mean 5400?"),
        ({"wall_s": "12:30:05"}, "did you mean 45005?"),
        ({"wall_s": "10ms"}, "write plain digits"),
        ({"wall_s": 12.1}, "did you mean 13?"),
        ({"wall_s": jobspec.MAX_WALL_S * 1000}, f"did you mean {jobspec.MAX_WALL_S}? it is written in seconds"),
        ({"wall_s": jobspec.MAX_WALL_S + 1}, "split the job"),
        ({"memory": 2}, "did you mean 2GiB?"),
        ({"memory": 512}, "did you mean 512MiB?"),
    ],
)
def test_a_resource_of_another_unit_is_asked_about(resources: dict[str, Any], meant: str) -> None:
    """Cores in thousandths, minutes, milliseconds, bare gigabytes: the hint spells what was meant."""
    assert refusal(resources=resources).hint == meant


@pytest.mark.parametrize(
    ("changes", "what", "hint"),
    [
        ({"budget": 0}, "budget is nothing", "write dollars, such as 0.50"),
        ({"budget": 2_500_000_000}, "budget is more than anybody means", "did you mean 2500.00?"),
        ({"setup": "pip install numpy"}, "setup is a command", "setup: requirements.txt"),
        ({"setup": "numpy\ntorch"}, "setup is a command", "setup: requirements.txt"),
        ({"inputs": {"data": {"path": "a", "module": "b"}}}, "inputs.data names no single source", "write {module"),
        ({"name": "a\ud800"}, "name is not text", "save the file as UTF-8"),
        ({"num_nodes": 2.0}, "num_nodes is not a whole number", "did you mean 2?"),
        ({"num_nodes": 2.5}, "num_nodes is not a whole number", "write plain digits"),
    ],
)
def test_refusals_say_what_to_write(changes: dict[str, Any], what: str, hint: str) -> None:
    """What is refused is named by its key, and the hint is the next thing to write."""
    said = refusal(**changes)
    assert said.what == what
    assert hint in said.hint


@pytest.mark.parametrize("trust", [{"policy": "strict"}, {"tier": "T2"}, {"privacy": "sealed"}, {"verify": "attested"}])
def test_what_comes_later_is_said_to_come_later(trust: dict[str, str]) -> None:
    """A member of the format that no market serves today is refused as not yet possible, not as unknown."""
    (path,) = trust
    said = refusal(trust=trust)
    assert f"trust.{path}" in said.what and "not yet" in said.what


@pytest.mark.parametrize("trust", [{}, {"verify": "none"}, {"assurance": "full"}, {"audit": 0.5}])
def test_every_job_is_of_the_newest_rules(trust: dict[str, Any]) -> None:
    """Whoever names no assurance asks for `sampled`; how much that needs is solved when the plan is made."""
    spec = jobfile.parse({"run": "true", "trust": trust}).spec
    assert spec.rules == jobspec.RULES
    assert spec.trust.assurance == trust.get("assurance", "sampled")
    assert spec.trust.audit_ppm == (500_000 if "audit" in trust else jobfile.LEAST_AUDIT_PPM)


def test_a_step_has_no_agreed_time() -> None:
    """A step is paid as measured: `step_ms` is refused with what bounds a job; specs of rules 2 cannot go without."""
    with pytest.raises(SpecError, match=r"unknown key recipe\.step_ms") as caught:
        jobfile.parse({**TRAIN, "recipe": {**TRAIN["recipe"], "step_ms": 60}})
    assert caught.value.hint == "leave it out: steps are measured; resources.wall_s and budget are the ceilings"
    spec = jobfile.parse(TRAIN).spec
    assert spec.recipe is not None and spec.recipe.step_ms is None
    with pytest.raises(SpecError, match=r"recipe\.step_ms does not fit trust\.assurance"):
        jobspec.check(dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, step_ms=60)))
    old = dataclasses.replace(spec, trust=dataclasses.replace(spec.trust, assurance=None), rules=None)
    with pytest.raises(SpecError, match="steps have no price"):
        jobspec.check(old)


@pytest.mark.parametrize(
    ("missing", "hint"), [("entry", "add: entry: recipe.py:recipe"), ("rounds", "add: rounds: 12")]
)
def test_a_recipe_without_entry_or_rounds_is_told_which(missing: str, hint: str) -> None:
    """What a recipe cannot go without is named, with a line to add."""
    recipe = {name: value for name, value in TRAIN["recipe"].items() if name != missing}
    with pytest.raises(SpecError, match=rf"recipe\.{missing} is missing") as caught:
        jobfile.parse({**TRAIN, "recipe": recipe})
    assert caught.value.hint == hint


def test_one_number_of_inner_steps_is_a_list_of_one() -> None:
    """`inner_steps: 5` means five in every round."""
    recipe = jobfile.parse({**TRAIN, "recipe": {**TRAIN["recipe"], "inner_steps": 5}}).spec.recipe
    assert recipe is not None and recipe.inner_steps == (5,)


def test_an_option_beyond_what_json_holds_is_refused() -> None:
    """A whole number that a reader of JSON may round is not signed."""
    with pytest.raises(SpecError, match="has no JSON form"):
        jobfile.parse({**TRAIN, "recipe": {**TRAIN["recipe"], "options": {"seed": 2**53}}})


def test_a_draft_takes_its_own_inputs_and_no_others() -> None:
    """What was resolved must be what the file names."""
    draft = jobfile.parse({"run": "true", "inputs": {"data": {"path": "a"}}})
    item = Input(digest(b"x"), 1, "file a")
    with pytest.raises(SpecError, match="inputs are not those of the draft") as caught:
        draft.resolve([ENTRY], {"other": item})
    assert caught.value.why == "data, other"
    assert draft.resolve([ENTRY], {"data": item}).inputs == {"data": item}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"envs": {f"V{number}": "x" for number in range(jobspec.MAX_ENVS + 1)}}, "envs has too many"),
        ({"outputs": [f"o{number}" for number in range(jobspec.MAX_OUTPUTS + 1)]}, "outputs has too many"),
        ({"trust": {"regions": ["EU"] * (jobspec.MAX_NAMES + 1)}}, "trust.regions has too many"),
    ],
)
def test_lists_have_an_end(changes: dict[str, Any], what: str) -> None:
    """No list of a job file is longer than a market will sign."""
    assert refusal(**changes).what.startswith(what)


@pytest.mark.parametrize(
    ("recipe", "what"),
    [
        ({"rounds": jobspec.MAX_ROUNDS, "lanes": jobspec.MAX_LANES}, "recipe has too many tasks"),
        ({"options": {"a": [[[[[[[[[[1]]]]]]]]]]}}, "recipe.options"),
        ({"options": {"a": list(range(jobspec.MAX_OPTION_VALUES + 1))}}, "recipe.options"),
    ],
)
def test_a_recipe_has_bounds(recipe: dict[str, Any], what: str) -> None:
    """Neither tasks nor options are without number."""
    with pytest.raises(SpecError) as caught:
        jobfile.parse({**TRAIN, "recipe": {**TRAIN["recipe"], **recipe}})
    assert caught.value.what.startswith(what)


def test_more_inputs_than_a_job_may_name_are_refused() -> None:
    """Inputs are few and large: many small ones belong into one file."""
    names = [f"i{number}" for number in range(jobspec.MAX_INPUTS + 1)]
    draft = jobfile.parse({"run": "true", "inputs": {name: {"path": name} for name in names}})
    with pytest.raises(SpecError, match="inputs has too many entries"):
        draft.resolve([ENTRY], dict.fromkeys(names, Input(digest(b"x"), 1, "file x")))


def test_how_much_is_audited_follows_from_the_assurance_unless_it_is_said() -> None:
    """A rate of one's own is kept and known for that; no other word than the three is an assurance."""
    job = {"run": "python main.py"}
    asked, raised = (jobfile.parse({**job, "trust": trust}) for trust in ({"assurance": "verified"}, {"audit": 0.5}))
    assert (asked.spec.trust.assurance, asked.has_own_rate) == ("verified", False)
    assert (raised.spec.trust.audit_ppm, raised.has_own_rate) == (500_000, True)
    with pytest.raises(SpecError, match=r"trust\.assurance is not a known value"):
        jobfile.parse({**job, "trust": {"assurance": "certain"}})
    with pytest.raises(SpecError, match="does not fit verify: none"):
        jobfile.parse({**job, "trust": {"assurance": "full", "verify": "none"}})
