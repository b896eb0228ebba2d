"""Blame in the buyer's own code: strikes in place of convictions, and what they take."""

from __future__ import annotations

import dataclasses
import itertools

from tests.integration.train.small_job import command_spec, train_spec
from tests.unit.rules.test_verdict import OPERATORS, answer, contribution

from stannary.formats.jobspec import Auditors
from stannary.formats.predicates import Verdict
from stannary.rules import blame
from stannary.rules.reasons import Reason
from stannary.rules.verdict import judge, without_blame


def decide(prover, *auditors, contributed=None, **options):
    heard = [answer(node, voice) for node, voice in zip("abc", auditors, strict=False) if voice]
    said = answer("p", prover) if prover else None
    return judge(contribution(contributed or (prover or "x")[0]), said, heard, OPERATORS, **options)


def test_every_combination_is_judged_as_in_our_code_but_for_the_blame():
    """Over all voices: who would be convicted is odd, what would be refuted is unverified, the rest is as it is."""
    voices = ["xx", "yy", "xy", "zz", None]
    for prover, *auditors in itertools.product(voices, repeat=4):
        for exhausted in (False, True):
            ours = decide(prover, *auditors, exhausted=exhausted)
            made = without_blame(ours)
            assert (made.refuted, made.odd) == ((), ours.refuted)
            assert (made.reason, made.need_auditor) == (ours.reason, ours.need_auditor)
            refuted = ours.verdict is Verdict.REFUTED
            assert made.verdict is (Verdict.UNVERIFIED if refuted else ours.verdict)


def test_a_lone_accuser_with_nobody_left_to_ask_harms_nobody():
    """Two answers, two results: the unit is not paid, and that is all."""
    made = without_blame(decide("xx", "yy", exhausted=True))
    assert (made.verdict, made.reason, made.odd) == (Verdict.UNVERIFIED, Reason.NO_AGREEMENT, ())


def test_only_our_own_code_convicts():
    """A command and a buyer's recipe never; a recipe of the package does, unless auditors are chosen; rules 2 did."""
    ours = train_spec()
    ours = dataclasses.replace(ours, recipe=dataclasses.replace(ours.recipe, entry="builtin:bytegpt"), rules=3)
    for spec in (train_spec(), command_spec("true")):
        assert blame.convicts(spec)
        assert not blame.convicts(dataclasses.replace(spec, rules=3))
    assert blame.convicts(ours)
    narrowed = dataclasses.replace(ours, trust=dataclasses.replace(ours.trust, auditors=Auditors.LISTED))
    assert not blame.convicts(narrowed)  # its buyer chose who judges
