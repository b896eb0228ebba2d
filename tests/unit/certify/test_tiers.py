"""Tiers: the minimum over layers, with the one fact that limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stannary.certify.outcomes import Appraisal, Examination, Severity, Step, missing
from stannary.certify.remedies import Code
from stannary.certify.tiers import decide
from stannary.formats.predicates import Tier


def _layer(kind: str, *, caps: tuple[int, ...] = (), refused: bool = False) -> Appraisal:
    exam = Examination(kind, identities=[f"{kind}:1"])
    for number, cap in enumerate(caps):
        exam.cap(f"cap{number}", Step.TCB, cap, observed=f"cap {cap}", expected="none", remedy="rise")
    if refused:
        exam.refuse("bad", Step.SIGNATURE, Code.SIGNATURE_INVALID, observed="forged")
    return exam.close()


@given(st.lists(st.integers(0, 4), max_size=4), st.lists(st.integers(0, 4), max_size=4))
def test_tier_is_the_minimum_over_all_caps(cpu, gpu):
    """No combination of layers is above its lowest cap, and adding a cap never raises."""
    parts = {"cpu": _layer("snp", caps=tuple(cpu)), "gpu/1": _layer("nvgpu", caps=tuple(gpu))}
    decision = decide(parts, num_vouchers=2, named=True)
    assert decision.tier == Tier(f"T{min([*cpu, *gpu, 4])}")
    assert decision.limiting.tier == decision.tier


def test_refused_or_missing_layer_is_t0_and_named_first():
    """A refusal limits before any other fact of the same tier."""
    for bad in (_layer("nvgpu", refused=True), missing("gpu", "gpu evidence")):
        decision = decide({"cpu": _layer("snp", caps=(0,)), "gpu": bad})
        assert decision.tier is Tier.T0
        assert decision.refused
        assert decision.limiting.layer == "gpu"
        assert decision.limiting.remedy


def test_a_tpm_alone_never_shows_confidentiality():
    """A host with a perfect TPM is machine-bound at most, vouched and named as it may be."""
    decision = decide({"tpm": _layer("tpm")}, num_vouchers=9, named=True)
    assert decision.tier is Tier.T1


def test_nothing_is_t0():
    """No evidence is no tier above open."""
    decision = decide({})
    assert decision.tier is Tier.T0
    assert not decision.refused


@given(st.permutations(list(Step)))
def test_outcome_is_the_first_of_the_trust_path(steps):
    """Whatever order findings are made in, the outcome is the earliest step's, and all stay listed."""
    exam = Examination("x")
    for step in steps:
        exam.refuse(step.name, step, Code.MALFORMED if step is Step.PARSE else Code.REVOKED, observed=step.name)
    closed = exam.close()
    assert closed.outcome == "refuse:malformed"
    assert len([item for item in closed.findings if item.severity is Severity.REFUSE]) == len(Step)
