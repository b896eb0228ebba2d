"""The job spec: what is signed, what is refused, and in which words."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import FormatError, SpecError, StannaryError
from stannary.formats import canonical, jobfile, jobspec, training
from stannary.formats.digest import digest
from stannary.formats.jobspec import Input
from stannary.formats.workdir import WorkFile

HELLO: dict[str, Any] = {
    "name": "hello",
    "kind": "train",
    "recipe": {"entry": "recipe.py:recipe", "rounds": 12, "lanes": 4, "inner_steps": [3, 6, 10]},
    "resources": {"cpus": 1, "memory": "1GiB", "wall_s": 600, "disk": "256MiB"},
    "inputs": {"corpus": {"module": "pydoc_data.topics"}},
    "outputs": ["model.safetensors"],
    "trust": {"tier": "T0", "verify": "replay", "audit": 1.0, "max_price": 0.5, "gain": 0.6},
    "budget": 1.25,
}
RECIPE_FILE = WorkFile("recipe.py", 0o644, digest(b"recipe"), 6)
CORPUS = Input(digest(b"corpus"), 6, "module pydoc_data.topics")


def resolved(**changes: Any) -> jobspec.JobSpec:
    draft = jobfile.parse({**HELLO, **changes})
    return draft.resolve([RECIPE_FILE], dict.fromkeys(draft.inputs, CORPUS))


def without(path: str) -> dict[str, Any]:
    value = copy.deepcopy(HELLO)
    *parents, last = path.split(".")
    section = value
    for name in parents:
        section = section.setdefault(name, {})
    del section[last]
    return value


class TestCanonical:
    def test_every_default_is_explicit(self):
        """A spec that leaves defaults out has the same bytes as one that writes them."""
        implicit = without("resources")
        explicit = {**HELLO, "num_nodes": 4, "envs": {}, "workdir": "."}
        first = jobfile.parse(implicit).resolve([RECIPE_FILE], {"corpus": CORPUS})
        second = jobfile.parse(explicit).resolve([RECIPE_FILE], {"corpus": CORPUS})
        assert canonical.encode(jobspec.to_canonical(first)) == canonical.encode(jobspec.to_canonical(second))

    def test_units_are_the_smallest(self):
        """Money is micro-dollars, sizes are bytes, shares are parts per million."""
        spec = resolved()
        assert spec.budget_usd_micros == 1_250_000
        assert spec.resources.memory_bytes == 2**30
        assert spec.trust.audit_ppm == 1_000_000
        assert spec.trust.gain_ppm == 600_000
        assert spec.trust.max_price_usd_micros_per_hour == 500_000

    def test_reads_back_what_it_wrote(self):
        """Reading the canonical members gives the same spec."""
        spec = resolved(envs={"SEED": 3, "MODE": "fast"})
        members = canonical.decode_object(canonical.encode(jobspec.to_canonical(spec)))
        assert jobspec.from_canonical(members) == spec

    @pytest.mark.parametrize("path", ["trust.audit_ppm", "envs", "resources", "budget_usd_micros", "inputs"])
    def test_a_default_left_out_is_refused(self, path):
        """The signed form has one spelling: a missing member is refused."""
        members: Any = jobspec.to_canonical(resolved())
        *parents, last = path.split(".")
        section = members
        for name in parents:
            section = section.setdefault(name, {})
        del section[last]
        with pytest.raises(FormatError):
            jobspec.from_canonical(members)

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("budget_usd_micros", 0),
            ("num_nodes", 0),
            ("recipe.rounds", 0),
            ("recipe.lanes", 3),
            ("recipe.inner_steps", []),
            ("trust.audit_ppm", 1_000_001),
            ("trust.verify", "none"),
            ("trust.policy", ""),
            ("name", "../etc"),
            ("outputs", ["../../etc/passwd"]),
            ("outputs", ["a", "a"]),
            ("recipe.entry", "missing.py:recipe"),
            ("recipe.entry", "/etc/recipe.py:recipe"),
        ],
    )
    def test_values_outside_the_rules_are_refused_on_every_side(self, path, value):
        """A market or node that reads a signed spec applies the same limits as the client."""
        members: Any = jobspec.to_canonical(resolved())
        *parents, last = path.split(".")
        section = members
        for name in parents:
            section = section.setdefault(name, {})
        section[last] = value
        with pytest.raises(SpecError):
            jobspec.from_canonical(members)


class TestWorkdir:
    def test_a_listing_that_breaks_its_rules_is_refused(self):
        """The market and the node check the work directory of a signed spec again."""
        members: Any = jobspec.to_canonical(resolved())
        members["workdir"][0]["path"] = "../recipe.py"
        with pytest.raises(FormatError):
            jobspec.from_canonical(members)

    def test_a_listing_has_one_order(self):
        """Files in another order than that of their paths would be a second spelling of one job."""
        members: Any = jobspec.to_canonical(resolved())
        members["workdir"].append({**members["workdir"][0], "path": "a.py"})
        with pytest.raises(SpecError, match="not in path order"):
            jobspec.from_canonical(members)
        members["workdir"].reverse()
        jobspec.from_canonical(members)

    def test_a_command_whose_files_do_not_fit_is_refused_before_the_work(self):
        """A command runs in a copy of its work directory: one larger than resources.disk never starts."""
        draft = jobfile.parse({"kind": "command", "run": "true", "resources": {"disk": "1MiB"}})
        with pytest.raises(SpecError, match=r"larger than resources\.disk"):
            draft.resolve([WorkFile("big.bin", 0o644, digest(b"big"), 1024**2 + 1)], {})

    def test_a_setup_list_too_large_to_be_read_whole_is_refused_on_every_side(self):
        """A signed spec whose list of packages is gigabytes costs no node its memory."""
        members: Any = jobspec.to_canonical(resolved())
        members["setup"] = "recipe.py"
        jobspec.from_canonical(members)
        members["workdir"][0]["size_bytes"] = jobspec.MAX_SETUP_BYTES + 1
        with pytest.raises(SpecError, match="too large"):
            jobspec.from_canonical(members)


class TestWords:
    def test_unknown_keys_name_the_nearest(self):
        """A misspelt key is refused and the nearest known key is named."""
        with pytest.raises(SpecError) as caught:
            jobfile.parse({**HELLO, "budgett": 1})
        assert "budgett" in caught.value.what
        assert caught.value.hint == "did you mean budget?"

    def test_unknown_nested_keys_name_their_path(self):
        """A misspelt key in a section is named with the section."""
        with pytest.raises(SpecError, match=r"trust\.max_prise") as caught:
            jobfile.parse({**HELLO, "trust": {"max_prise": 1}})
        assert "max_price" in caught.value.hint

    @pytest.mark.parametrize(
        ("changes", "path"),
        [
            ({"secrets": ["HF_TOKEN"]}, "secrets"),
            ({"service": {}}, "service"),
            ({"resources": {"accelerators": "H200:8"}}, "resources.accelerators"),
            ({"trust": {"privacy": "sealed"}}, "trust.privacy"),
            ({"trust": {"tier": "T2"}}, "trust.tier"),
            ({"trust": {"verify": "attested"}}, "trust.verify"),
        ],
    )
    def test_later_releases_are_said_to_be_later(self, changes, path):
        """A key or value of a later release is refused as not yet, with what comes."""
        with pytest.raises(SpecError, match="not yet") as caught:
            jobfile.parse({**HELLO, **changes})
        assert caught.value.what.startswith(path)
        assert "come" in caught.value.why

    @pytest.mark.parametrize(
        ("changes", "path", "observed"),
        [
            ({"budget": "much"}, "budget", "'much'"),
            ({"budget": True}, "budget", "true"),
            ({"budget": 0.0000001}, "budget", "1e-07"),
            ({"num_nodes": "4"}, "num_nodes", "'4'"),
            ({"num_nodes": True}, "num_nodes", "true"),
            ({"outputs": "model"}, "outputs", "'model'"),
            ({"recipe": []}, "recipe", "a list of 0"),
            ({"envs": {"DEBUG": True}}, "envs.DEBUG", "true"),
            ({"resources": {"memory": "1 gig"}}, "resources.memory", "'1 gig'"),
            ({"trust": {"audit": 1.5}}, "trust.audit", "1.5"),
            ({"inputs": {"corpus": "text"}}, "inputs.corpus", "'text'"),
        ],
    )
    def test_ill_typed_values_name_path_and_value(self, changes, path, observed):
        """An ill-typed value is refused with its path and what was observed."""
        with pytest.raises(SpecError) as caught:
            jobfile.parse({**HELLO, **changes})
        assert caught.value.what.startswith(path)
        assert observed in caught.value.why

    def test_fractions_in_options_are_signed_as_their_shortest_text(self):
        """What is signed holds no binary fractions; what the recipe gets are numbers again."""
        options = {"dropout": 0.1, "nested": [{"eps": 1e-5}, 3.0, -2.5e300], "word": "v1.1", "n": 3, "on": True}
        signed = resolved(recipe={**HELLO["recipe"], "options": options}).recipe.options
        assert signed["dropout"] == "0.1"
        assert training.read_options(signed) == options
        with pytest.raises(SpecError, match=r"recipe\.options\.lr"):
            jobfile.parse({**HELLO, "recipe": {**HELLO["recipe"], "options": {"lr": float("nan")}}})

    def test_one_tenth_means_one_tenth(self):
        """Decimal spellings are kept exactly."""
        assert resolved(budget=0.1).budget_usd_micros == 100_000

    def test_kinds_do_not_mix(self):
        """A command in a train job, and a recipe in a command job, are refused."""
        with pytest.raises(SpecError, match="run belongs"):
            jobfile.parse({**HELLO, "run": "python main.py"})
        with pytest.raises(SpecError, match="recipe belongs"):
            jobfile.parse({**HELLO, "kind": "command", "run": "true"})

    def test_a_command_is_compared_by_default(self):
        """A command job without more is verified by rerun-compare."""
        spec = jobfile.parse({"run": "python main.py"}).spec
        assert (spec.kind, spec.trust.verify, spec.num_nodes) == ("command", "rerun-compare", 1)


def test_alias_bombs_do_not_explode():
    """A value whose text would be gigabytes (nested YAML aliases) is refused at once."""
    bomb: list[Any] = ["x"]
    for _ in range(60):
        bomb = [bomb, bomb]
    recipe = {**HELLO["recipe"], "options": {"bomb": bomb}}
    with pytest.raises(SpecError):
        jobfile.parse({**HELLO, "recipe": recipe})
    with pytest.raises(SpecError):
        jobfile.parse({**HELLO, "name": bomb})


def test_recursive_options_are_refused():
    """A YAML anchor that contains itself is refused."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(SpecError):
        jobfile.parse({**HELLO, "recipe": {**HELLO["recipe"], "options": {"loop": loop}}})


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PATHS = [f"{section}.{key}".strip(".") for section, keys in jobfile.KEYS.items() for key in keys]


@given(ANY)
def test_any_yaml_gives_a_draft_or_our_error(value):
    """Whatever YAML holds, parsing gives a draft or an error of ours."""
    with contextlib.suppress(StannaryError):
        jobfile.parse(value)


@given(st.sampled_from([path for path in PATHS if "*" not in path]), ANY)
def test_any_value_anywhere_gives_a_draft_or_our_error(path, value):
    """Whatever stands at a known key, parsing gives a signable draft or an error of ours."""
    document = copy.deepcopy(HELLO)
    *parents, last = path.split(".")
    section = document
    for name in parents:
        section = section.setdefault(name, {})
    section[last] = value
    try:
        draft = jobfile.parse(document)
        spec = draft.resolve([RECIPE_FILE], dict.fromkeys(draft.inputs, CORPUS))
        assert jobspec.from_canonical(jobspec.to_canonical(spec)) == spec
        canonical.encode(jobspec.to_canonical(spec))
    except StannaryError:
        pass


@given(st.dictionaries(st.sampled_from(list(jobspec.JobSpec.__dataclass_fields__)), JSON))
def test_any_json_gives_a_spec_or_our_error(changes):
    """Whatever a signed spec holds, reading it gives a spec or an error of ours."""
    members: Any = jobspec.to_canonical(resolved())
    with contextlib.suppress(StannaryError):
        jobspec.from_canonical({**members, **changes})
