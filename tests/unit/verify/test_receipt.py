"""Receipts: honest ones verify, every changed value, lie and omission is refused."""

import base64
import contextlib
import copy
import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import FormatError, LimitExceeded
from stannary.formats import digest, dsse
from stannary.formats.jobspec import JobKind, Verification
from stannary.formats.predicates import Assurance, Tier, Verdict
from stannary.formats.receipt import LoggedEnvelope
from stannary.verify.policy import built_in
from stannary.verify.receipt import Expectations, verify_receipt
from stannary.verify.report import Severity
from stannary.verify.trust import TrustStore, pin

from .world import World


@pytest.fixture(scope="module")
def world():
    return World(liars={"n3"}).play()


@pytest.fixture(scope="module")
def receipt(world):
    return world.receipt()


def judged(world, data=None, policy=None):
    return verify_receipt(world.receipt() if data is None else data, world.trust(), world.now, policy)


def found(report):
    return {item.id for item in report.findings if item.severity is not Severity.NOTICE}


# --- honest worlds ---


def test_an_honest_job_is_verified():
    """A job among honest nodes verifies with exit code 0 and no finding that weighs."""
    world = World().play()
    report = judged(world)
    assert (report.exit_code, report.verdict, found(report)) == (0, Verdict.VERIFIED, set())
    assert report.claims.receipt.soundness.audited == 8


def test_a_liar_is_convicted_and_the_job_verified(world, receipt):
    """With one liar the job still verifies; the liar is named, unpaid and has lost its bond."""
    report = judged(world, receipt)
    assert report.exit_code == 0
    liar = world.nodes["n3"]
    assert {node for said in report.claims.convictions for node in said.refuted} == {liar.id}
    lines = report.claims.receipt.settlement
    assert all(line.usd_micros == 0 for line in lines if line.account == "operator:fir" and line.reason == "withheld")
    assert ("bond:fir", -liar.bond) in {(line.account, line.usd_micros) for line in lines}


def test_a_false_accuser_is_convicted_not_the_prover():
    """An auditor who answers falsely is contradicted by prover and second auditor, and convicted itself."""
    world = World(false_accusers={"n3"}).play()
    report = judged(world)
    assert report.exit_code == 0
    assert {node for said in report.claims.convictions for node in said.refuted} == {world.nodes["n3"].id}


def test_a_silent_prover_is_left_out_and_never_convicted():
    """Silence leaves the work unpaid and out of the merge; the job verifies and nobody is convicted."""
    report = judged(World(silent={"n2"}).play())
    assert report.exit_code == 0
    assert report.claims.convictions == ()


@pytest.mark.parametrize("audit_ppm", [100_000, 300_000])
def test_partial_audits_are_sound_when_bonds_are_high(audit_ppm):
    """With bonds worth thousands of tasks a small audit rate suffices, and undrawn work counts as verified."""
    world = World(audit_ppm=audit_ppm, rounds=3).play()
    report = judged(world)
    assert report.exit_code == 0
    assert report.claims.receipt.soundness.drawn < report.claims.receipt.soundness.units


def test_too_few_audits_for_the_stake_are_unverified():
    """Below the required audit probability the verdict is unverified and the exit code 4."""
    world = World(audit_ppm=100_000)
    for node in world.nodes.values():
        node.bond = 0
    report = judged(world.play())
    assert (report.exit_code, report.verdict) == (4, Verdict.UNVERIFIED)
    assert found(report) == {"receipt.unverified"}


def test_a_command_job_is_verified_by_rerunning_it():
    """rerun-compare receipts verify; the subjects are the outputs of every lane."""
    assert judged(World(kind=JobKind.COMMAND).play()).exit_code == 0


def test_a_job_without_verification_is_what_its_buyer_asked_for():
    """`verify: none` gives an unverified receipt: exit 0, but 4 under rules 2, or where a policy wants more."""
    world = World(kind=JobKind.COMMAND, verify=Verification.NONE, assurance=Assurance.SAMPLED).play()
    data = world.receipt()
    assert (judged(world, data).exit_code, judged(world, data).verdict) == (0, Verdict.UNVERIFIED)
    wanting = Expectations(requirements=built_in("local"))
    assert judged(world, data, wanting).exit_code == 4
    before = World(kind=JobKind.COMMAND, verify=Verification.NONE).play()
    assert judged(before, before.receipt()).exit_code == 4
    report = judged(world, data, Expectations(allow_unverified=True))
    assert (report.exit_code, report.verdict) == (0, Verdict.UNVERIFIED)
    assert any(line.reason == "work" and line.usd_micros > 0 for line in report.claims.receipt.settlement)


def test_a_late_conviction_merges_again_and_pays_redo_from_the_bond():
    """Verified work that a conviction made useless is paid as redo, out of the liar's bond and not by the buyer."""
    world = World(rounds=2, liars={"n3"}).play_remerged()
    report = judged(world)
    assert report.exit_code == 0, report.findings
    redo = [line for line in report.claims.receipt.settlement if line.reason == "redo"]
    assert len(redo) == 3  # the first merge, and two honest lanes of round 1
    insurance = next(line for line in report.claims.receipt.settlement if line.account == "insurance")
    assert insurance.usd_micros < world.nodes["n3"].bond - sum(line.usd_micros for line in redo) + 1


def test_a_receipt_survives_reserialisation(world, receipt):
    """Indentation and member order carry no meaning."""
    value = json.loads(receipt)
    assert judged(world, json.dumps(value, indent=3).encode()).exit_code == 0
    assert judged(world, json.dumps(dict(reversed(value.items()))).encode()).exit_code == 0


# --- trust ---


def test_a_receipt_of_an_unknown_log_is_below_policy(world):
    """Re-signed throughout by a new log and new nodes, the receipt is perfect and worthless: unknown log, exit 4."""
    other = World(name="other.market").play()
    report = verify_receipt(other.receipt(), world.trust(), other.now)
    assert (report.exit_code, found(report), report.claims) == (4, {"log.unknown"}, None)
    assert "unknown log" in report.findings[0].observed


def test_a_log_of_the_same_name_with_another_key_is_unknown(world):
    """The name alone is not trusted."""
    forger = World()
    forger.market_key = forger.buyer_key
    assert found(verify_receipt(forger.play().receipt(), world.trust(), forger.now)) == {"log.unknown"}


def test_no_pins_no_trust(receipt):
    """With an empty store every log is unknown."""
    assert verify_receipt(receipt, TrustStore(), 0).exit_code == 4


def test_a_pinned_witness_must_have_signed(world, receipt):
    """Without the cosignature of every pinned witness the receipt is refused."""
    other = World(name="elsewhere")
    other.witness_key = other.buyer_key
    store = TrustStore().with_market(pin(world.vkey, (other.witness_vkey,)))
    assert verify_receipt(receipt, store, world.now).exit_code == 3


def test_a_cosignature_nobody_pinned_is_not_carried_along(world, receipt):
    """Signature lines whose key is not pinned are uncovered bytes: below policy."""
    store = TrustStore().with_market(pin(world.vkey))
    report = verify_receipt(receipt, store, world.now)
    assert report.exit_code != 0
    assert "witness.unknown" in found(report)


def test_a_receipt_from_the_future_is_refused(world, receipt):
    """A cosignature later than now is not enough, and says how far the reader's clock is behind."""
    report = verify_receipt(receipt, world.trust(), world.now - 10_000)
    assert report.exit_code == 4
    (said,) = [item for item in report.findings if item.id == "witness.future"]
    assert "your clock is 2 h 46 min behind" in said.observed


def test_another_job_than_the_readers_own_is_refused(world, receipt):
    """A reader who knows its job refuses a receipt of another."""
    assert "receipt.other-job" in found(judged(world, receipt, Expectations(job_digest=digest.digest(b"mine"))))


# --- a changed file ---


def leaves(value, path=()):
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


def put(value, path, item):
    copied = copy.copy(value)
    copied[path[0]] = item if len(path) == 1 else put(value[path[0]], path[1:], item)
    return copied


def mutations(value, rng):
    """Yield changed spellings of one JSON value."""
    if isinstance(value, int):
        yield from (value + 1, max(value - 1, 0) if value else 7)
        return
    position = rng.randrange(len(value)) if value else 0
    yield value[:position] + chr(ord(value[position]) ^ 1) + value[position + 1 :] if value else "x"
    yield value + "A"
    yield value[:-1]
    try:
        raw = bytearray(base64.b64decode(value, validate=True))
    except ValueError:
        return
    if raw:
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        yield base64.b64encode(raw).decode()
        yield value.replace("=", "") if value.endswith("=") else value + "="


SMALL = World(rounds=1, lanes=2).play()
SMALL_VALUE = json.loads(SMALL.receipt())
SMALL_LEAVES = list(leaves(SMALL_VALUE))


@given(st.integers(0, len(SMALL_LEAVES) - 1), st.randoms(use_true_random=False))
def test_any_changed_leaf_is_refused(position, rng):
    """Whatever single value of the file is changed, key ids, indexes and unused bits included, it is refused."""
    path, value = SMALL_LEAVES[position]
    for changed in mutations(value, rng):
        if changed != value:
            data = json.dumps(put(SMALL_VALUE, path, changed)).encode()
            assert verify_receipt(data, SMALL.trust(), SMALL.now).exit_code != 0, (path, changed)


def test_every_kind_of_leaf_is_covered():
    """The same for one leaf of every distinct place, so that no member is missed by chance."""
    rng = random.Random(2)
    seen = set()
    for path, value in SMALL_LEAVES:
        place = tuple(part for part in path if isinstance(part, str))
        if place in seen:
            continue
        seen.add(place)
        for changed in mutations(value, rng):
            if changed != value:
                data = json.dumps(put(SMALL_VALUE, path, changed)).encode()
                assert verify_receipt(data, SMALL.trust(), SMALL.now).exit_code != 0, (path, changed)
    assert len(seen) == 14  # format, proof, 4 of an envelope, 6 of evidence, 2 of a checkpoint


def lists(value, path=()):
    if isinstance(value, dict):
        for name, item in value.items():
            yield from lists(item, (*path, name))
    elif isinstance(value, list):
        yield path, value
        if value and isinstance(value[0], dict):
            for index, item in enumerate(value[:3]):
                yield from lists(item, (*path, index))


def test_items_removed_doubled_or_swapped_are_refused():
    """Every list of the file is refused with an item less, an item twice, or two items exchanged."""
    for path, items in lists(SMALL_VALUE):
        variants = [items[:-1], items[1:], [*items, items[-1]], [items[0], *items], items[::-1]] if items else [["x"]]
        for variant in variants:
            if variant != items:
                data = json.dumps(put(SMALL_VALUE, path, variant)).encode()
                assert verify_receipt(data, SMALL.trust(), SMALL.now).exit_code != 0, path


def objects(value, path=()):
    if isinstance(value, dict):
        yield path, value
        for name, item in value.items():
            yield from objects(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value[:2]):
            yield from objects(item, (*path, index))


def test_unknown_and_missing_members_are_refused_everywhere():
    """Everything is covered or absent, at every level of the file."""
    for path, item in objects(SMALL_VALUE):
        for changed in [{**item, "extra": 1}, *({k: v for k, v in item.items() if k != name} for name in item)]:
            value = put(SMALL_VALUE, path, changed) if path else changed
            assert verify_receipt(json.dumps(value).encode(), SMALL.trust(), SMALL.now).exit_code == 3, path


def test_a_receipt_cut_short_is_a_format_error(receipt, world):
    """A truncated file is named as what it is."""
    for cut in (0, 1, len(receipt) // 2, len(receipt) - 1):
        with pytest.raises(FormatError):
            judged(world, receipt[:cut])


def test_nesting_and_size_are_refused_before_they_cost(world):
    """100 MB nested 10,000 deep, and a smaller one below the size limit, are refused by size and by depth."""
    with pytest.raises(LimitExceeded):
        judged(world, b"[" * 10_000 + b" " * 100_000_000)
    with pytest.raises(LimitExceeded):
        judged(world, b"[" * 10_000 + b"]" * 10_000)
    with pytest.raises(LimitExceeded):
        judged(world, b'{"a":' * 1_000_000)


@given(st.binary(max_size=300))
def test_any_bytes_are_answered(data):
    """Whatever the bytes, the answer is our error or a refused report."""
    with contextlib.suppress(FormatError):
        assert verify_receipt(data, SMALL.trust(), SMALL.now).exit_code != 0


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    )
)
def test_any_json_in_any_place_is_answered(value):
    """Any JSON put in place of any member is refused, not crashed on."""
    for name in SMALL_VALUE:
        data = json.dumps({**SMALL_VALUE, name: value}).encode()
        assert verify_receipt(data, SMALL.trust(), SMALL.now).exit_code == 3


# --- parts of other jobs ---


def test_another_jobs_proof_is_refused():
    """The proof of another receipt in the same log's name does not carry this one."""
    other = json.loads(World(rounds=1, lanes=2, seed=1).play().receipt())
    value = {**SMALL_VALUE, "proof": other["proof"]}
    assert verify_receipt(json.dumps(value).encode(), SMALL.trust(), SMALL.now).exit_code == 3


def test_another_jobs_evidence_is_refused():
    """Evidence of another job, envelope by envelope, is not in this log."""
    other = json.loads(World(rounds=1, lanes=2, seed=1).play().receipt())
    for position in range(14, len(SMALL_VALUE["evidence"])):
        value = put(SMALL_VALUE, ("evidence", position), other["evidence"][position])
        assert verify_receipt(json.dumps(value).encode(), SMALL.trust(), SMALL.now).exit_code == 3


def test_a_statement_of_another_job_in_the_same_log_is_refused():
    """A market that slips another job's statement into the evidence is refused, though the log holds it."""
    world = World()
    world.play()
    other = World(seed=1)
    other.tree, other.entries, other.now = world.tree, [], world.now
    other.open()
    world.now = other.now
    stray = next(item for item in other.entries if b"urn:stannary:placement" in item[1].payload)
    data = None
    world.entries.append(stray)
    with pytest.raises(Exception, match="another job"):
        data = world.receipt()
    assert data is None


# --- lying markets, with real keys ---


def bent(kind, change, **options):
    world = World(**options)
    world.bend[kind] = change
    return world


LIES = {
    "paid": lambda said: replace(said, paid_usd_micros=said.paid_usd_micros + 1),
    "refund": lambda said: replace(said, refunded_usd_micros=0),
    "escrow": lambda said: replace(said, escrow_usd_micros=1),
    "line": lambda said: replace(said, settlement=(replace(said.settlement[0], usd_micros=9), *said.settlement[1:])),
    "line-order": lambda said: replace(said, settlement=said.settlement[::-1]),
    "payee": lambda said: replace(
        said, settlement=(replace(said.settlement[0], account="operator:me"), *said.settlement[1:])
    ),
    "required": lambda said: replace(said, soundness=replace(said.soundness, required_ppm=1)),
    "stake": lambda said: replace(said, soundness=replace(said.soundness, stake_ppm=0)),
    "escape": lambda said: replace(said, soundness=replace(said.soundness, escape="0.5")),
    "independence": lambda said: replace(said, soundness=replace(said.soundness, independence="certified")),
    "split": lambda said: replace(said, time_split=replace(said.time_split, useful=9_999)),
    "class": lambda said: replace(said, engine_classes=("gpu",)),
    "attestation": lambda said: replace(said, attestation="hardware"),
    "verdict": lambda said: replace(said, verdict=Verdict.ATTESTED),
    "verification": lambda said: replace(said, verification="none"),
    "evidence": lambda said: replace(said, evidence=said.evidence[:-1]),
    "job": lambda said: replace(said, job_digest=digest.digest(b"other")),
    "span": lambda said: replace(said, started_at="2020-01-01T00:00:00Z"),
    "end": lambda said: replace(said, finished_at="2036-01-01T00:00:00Z"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_the_market_states_is_recomputed(lie):
    """Every figure of the receipt is recomputed; a market that states another is refuted, whoever signed it."""
    world = bent("receipt", LIES[lie], rounds=1, lanes=2).play()
    assert judged(world).exit_code == 3


def test_a_witness_that_is_named_and_did_not_sign_is_missed():
    """A market may name whom it asks; who has not cosigned is said, and whoever asks for more than truth is told no."""
    report = judged(bent("receipt", lambda said: replace(said, witness="w.example"), rounds=1, lanes=2).play())
    assert report.exit_code == 4
    (said,) = [item for item in report.findings if item.id == "witness.missing"]
    assert "w.example" in said.observed


def test_the_result_must_be_the_last_merge():
    """A subject other than the weights of the result's last merge is refused."""
    world = World(rounds=1, lanes=2).play()
    case = world.case()
    from stannary.formats.statement import Subject
    from stannary.verify import conclusion

    concluded = conclusion.conclude(case, status="succeeded", reason="completed")
    ending = conclusion.Ending(
        "succeeded", "completed", "local, not independent", world.time(world.now), world.time(world.now)
    )
    said = conclusion.compose(case, concluded, ending, [digest.from_raw(env.leaf()) for _, env in world.entries])
    data = world.assemble(said, [Subject("model.safetensors", digest.digest(b"other weights"))])
    assert "receipt.subject" in found(judged(world, data))


def drop(_):
    return None


def test_missing_answers_leave_the_job_unverified_or_refused():
    """A market that drops every answer cannot have a verdict accepted."""
    report = judged(bent("answer", drop, rounds=1, lanes=2).play())
    assert report.exit_code == 3
    assert "verdict.mismatch" in found(report)


def test_missing_verdicts_leave_the_job_unverified():
    """Drawn work without a logged verdict is not verified, even if the answers would do."""
    report = judged(bent("verdict", drop, rounds=1, lanes=2).play())
    assert (report.exit_code, report.verdict) == (4, Verdict.UNVERIFIED)
    assert "verdict.missing" in found(report)


def test_a_dropped_audit_is_seen():
    """A market that drops all statements of one drawn audit does not get a verified receipt."""
    target = []

    def drop_first(said):
        target.append(said.task) if not target else None
        return None if said.task == target[0] else said

    world = World(rounds=1, lanes=2)
    for kind in ("answer-commitment", "answer", "verdict"):
        world.bend[kind] = drop_first
    report = judged(world.play())
    assert report.exit_code == 4
    assert report.verdict is Verdict.UNVERIFIED


def test_a_verdict_the_answers_do_not_give_is_refused():
    """A market that whitewashes its liar is refuted by the answers."""

    def whitewash(said):
        return replace(said, verdict=Verdict.VERIFIED, reason="agreed", refuted=())

    report = judged(bent("verdict", whitewash, liars={"n3"}).play())
    assert "verdict.mismatch" in found(report)


def test_an_honest_node_cannot_be_convicted_by_the_market():
    """A verdict `refuted` without two recomputations against the prover is refused."""

    def convict(said):
        return replace(said, verdict=Verdict.REFUTED, reason="two-recomputations-disagree", refuted=(said.node,))

    assert "verdict.mismatch" in found(judged(bent("verdict", convict, rounds=1, lanes=2).play()))


def test_the_buyers_beacon_cannot_be_replaced():
    """A reveal that is not the next value of the buyer's chain is refused."""

    def other(said):
        return replace(said, value="00" * 32)

    world = bent("reveal", other, rounds=1, lanes=2)
    assert "reveal.chain" in found(judged(world.play()))


def test_a_commitment_held_back_from_its_draw_is_refused():
    """A market that knows the beacon may not leave a task for a luckier one."""

    def hold_back(said):
        return replace(said, drawable=said.drawable[1:])

    world = bent("draw", hold_back, rounds=1, lanes=2)
    try:
        report = judged(world.play())
    except StopIteration:
        pytest.fail("the world could not be played")
    assert "draw.held-back" in found(report)


@pytest.mark.parametrize(
    "change",
    [
        lambda item: replace(item, operator="someone-else"),
        lambda item: replace(item, num_steps=1),
        lambda item: replace(item, engine_class="other"),
        lambda item: replace(item, commitment_index=item.commitment_index + 1),
    ],
)
def test_a_draw_states_what_evidence_says(change):
    """Operators, classes, steps and indexes of a draw are those of credential, assignment and log."""

    def lie(said):
        return replace(said, drawable=(change(said.drawable[0]), *said.drawable[1:]))

    assert "draw.drawable" in found(judged(bent("draw", lie, rounds=1, lanes=2).play()))


def test_candidates_are_real_nodes_of_their_own_operators():
    """A candidate with an invented operator is refused: it could audit its own owner's work."""

    def relabel(said):
        return replace(said, candidates=tuple(replace(item, operator=f"op {item.node}") for item in said.candidates))

    assert "candidates.unknown" in found(judged(bent("candidates", relabel, rounds=1, lanes=2).play()))


def test_swapped_auditors_are_refused():
    """An auditor who answers in the audit of another rank is refused, though both recomputed the same."""
    honest = World(rounds=1, lanes=2, liars={"n1"}).play()
    names = {}
    for item in honest.case().answers.values():
        names.setdefault(item.predicate.task, []).append(item.predicate.audit)
    first, second = next(tuple(dict.fromkeys(listed)) for listed in names.values() if len(set(listed)) == 2)
    swapped = World(rounds=1, lanes=2, liars={"n1"})

    def swap(said):
        return replace(said, audit={first: second, second: first}.get(said.audit, said.audit))

    swapped.bend["answer"] = swap
    swapped.bend["answer-commitment"] = swap
    assert "audit.name" in found(judged(swapped.play()))


def test_an_answer_opened_otherwise_than_committed_is_refused():
    """An auditor that changes its answer after seeing another's does not open its commitment."""

    def change(said):
        return replace(said, blind="11" * 32)

    assert "answer.opening" in found(judged(bent("answer", change, rounds=1, lanes=2).play()))


def test_a_contribution_opened_otherwise_than_committed_is_refused():
    """A node that contributes something else than it committed to is refused."""

    def change(said):
        return replace(said, salt="22" * 32)

    assert "commitment.opening" in found(judged(bent("contribution", change, rounds=1, lanes=2).play()))


def test_a_convicted_contribution_may_not_be_admitted():
    """A merge that admits what was convicted before it was assigned is refused."""
    world = World(rounds=1, liars={"n3"})
    world.open()
    world.run_lanes(0)
    world.audit()
    world.verdicts.clear()  # the market pretends not to know
    world.merge(0)
    world.audit()
    world.close()
    report = judged(world)
    assert report.exit_code == 3
    assert "merge.convicted" in found(report)


def test_merges_admit_in_log_order():
    """Another order of admission is another sum; only log order is accepted."""

    def reverse(said):
        return replace(said, admitted=said.admitted[::-1]) if said.admitted else said

    world = World(rounds=1)
    honest_log = world.log

    def log(kind, predicate, key):
        if kind == "assignment" and predicate.admitted:
            predicate = reverse(predicate)
            world.assignments[predicate.task] = predicate
        return honest_log(kind, predicate, key)

    world.log = log
    assert "merge.order" in found(judged(world.play()))


def test_an_expired_credential_is_judged_at_the_time_of_the_work():
    """Work signed after the credential ended is refused; a receipt read years later is not."""

    def expire(said):
        return replace(said, expires_at=said.issued_at)

    assert "credential.expired" in found(judged(bent("credential", expire, rounds=1, lanes=2).play()))
    world = World(rounds=1, lanes=2).play()
    data = world.receipt()
    assert verify_receipt(data, world.trust(), world.now + 10 * 365 * 86_400).exit_code == 0


def test_who_is_listed_as_a_candidate_holds_a_credential_then():
    """A list made behind the end of a candidate's credential is refused, whether the beacon draws him or not."""
    world = World(rounds=1, lanes=2)
    listed = world.nodes["n5"].id

    def expire(said):
        ended = replace(said, issued_at="2020-01-01T00:00:00Z", expires_at="2020-02-01T00:00:00Z")
        return ended if said.node == listed else said

    world.bend["credential"] = expire
    report = judged(world.play())
    assert {item.observed for item in report.findings if item.id == "candidates.expired"} == {listed}
    assert found(report) <= {"candidates.expired", "credential.expired"}


def test_a_node_cannot_predate_its_work_past_the_witness():
    """A time after the witness saw the statement, or a day before it was logged, is refused."""

    def late(said):
        return replace(said, finished_at="2027-01-01T00:00:00Z")

    assert "time.future" in found(judged(bent("contribution", late, rounds=1, lanes=2).play()))


def test_excluded_operators_may_not_work():
    """The spec's masks hold for whoever did work."""
    world = World(rounds=1, lanes=2)
    spec = world.spec()
    world.spec = lambda: replace(spec, trust=replace(spec.trust, exclude_operators=("elm",)))
    assert "placement.ineligible" in found(judged(world.play()))


ROOT = digest.digest(b"a root file system")


@pytest.mark.parametrize("stray", ["", "n1", "n4", "n5"])
def test_a_job_that_names_a_root_is_done_and_judged_by_nodes_of_it(stray):
    """A node whose engine class is of another system may neither work nor be drawn, wherever it stands."""
    world = World(rounds=1, lanes=2, assurance=Assurance.FULL)
    spec = world.spec()
    world.spec = lambda: replace(spec, root=ROOT)
    for node in world.nodes.values():
        node.engine_class = f"{node.engine_class}.{'' if node.name == stray else 'r'}{ROOT[7:19]}"
    findings = found(judged(world.play()))
    assert ("candidates.ineligible" in findings) == bool(stray)
    assert ("placement.ineligible" in findings) == (stray in ("n1", "n4"))


@pytest.mark.parametrize("stray", ["", "n1", "n4", "n5"])
def test_a_job_that_names_a_class_is_done_and_judged_by_nodes_of_it(stray):
    """A market that places it elsewhere, or draws elsewhere, is refuted; every node of the class is fine."""
    world = World(rounds=1, lanes=2, assurance=Assurance.FULL)
    spec = world.spec()
    world.spec = lambda: replace(spec, resources=replace(spec.resources, engine_class="cpu-named"))
    for node in world.nodes.values():
        node.engine_class = "cpu-named-2" if node.name == stray else "cpu-named"
    findings = found(judged(world.play()))
    assert ("candidates.ineligible" in findings) == bool(stray)
    assert ("placement.ineligible" in findings) == (stray in ("n1", "n4"))


def test_a_statement_signed_by_another_key_is_refused():
    """The market's signature under a node's statement does not stand for the node's."""
    world = World(rounds=1, lanes=2)
    world.play()
    world.nodes["n1"].key = world.market_key
    for position, (index, envelope) in enumerate(world.entries):
        if b"urn:stannary:contribution" in envelope.payload:
            world.entries[position] = (index, dsse.sign(envelope.payload, world.market_key))
            break
    assert "signature" in found(judged(world))


def test_a_checkpoint_no_draw_used_is_refused():
    """A checkpoint that nothing needs may not ride along."""
    world = World(rounds=1, lanes=2)
    world.open()
    world.checkpoint()
    world.run_lanes(0)
    world.audit()
    world.merge(0)
    world.audit()
    world.close()
    assert "checkpoint.unused" in found(judged(world))


def test_evidence_out_of_order_is_refused():
    """Evidence in another order than the log's is refused when it is built and when it is read."""
    world = World(rounds=1, lanes=2).play()
    world.bend_file = lambda file: replace(file, evidence=file.evidence[::-1])
    assert judged(world).exit_code == 3
    item = LoggedEnvelope(world.entries[0][1], 3, ())
    from stannary.formats.receipt import build

    with pytest.raises(FormatError):
        build(world.entries[0][1], "", [item, item])


def test_a_failed_job_has_an_honest_receipt_below_policy():
    """A job that failed in its second round has a receipt that says so: unverified, no subject, work paid."""
    world = World(rounds=2)
    world.open()
    world.run_lanes(0)
    world.audit()
    world.close()
    report = judged(world, world.receipt(status="failed", reason="no-capacity"))
    assert (report.exit_code, report.verdict) == (4, Verdict.UNVERIFIED)
    assert any(line.reason == "work" and line.usd_micros for line in report.claims.receipt.settlement)


def world_with_a_canary(**more):
    """Return a world whose beacon drew a canary, which one audit in a hundred is; and who is asked."""
    for seed in range(400):
        world = World(seed=seed, **more).play()
        if world.canaries:
            return world, world.nodes[world.canaries[0][1]]
    raise AssertionError("no canary in 400 jobs")


def test_a_right_canary_answer_is_paid_work():
    """A known-answer audit answered rightly changes no verdict, and the auditor is paid for it."""
    world, auditor = world_with_a_canary()
    report = judged(world)
    assert (report.exit_code, report.claims.convictions) == (0, ())
    task = world.canaries[0][0]
    lines = report.claims.receipt.settlement
    paid = [line for line in lines if line.reason == "audit" and line.task.startswith(f"{task}/q")]
    assert [line.usd_micros > 0 for line in paid] == [True, True]
    assert paid[-1].account == f"operator:{auditor.operator}"


def test_a_wrong_canary_answer_refutes_the_auditor():
    """An auditor who guesses a known-answer audit is convicted and loses his bond; the work stands."""
    _, lazy = world_with_a_canary()
    world, asked = world_with_a_canary(fails_canaries={lazy.name})
    assert asked.name == lazy.name
    report = judged(world)
    assert report.exit_code == 0
    (said,) = report.claims.convictions
    assert (said.verdict, said.refuted, said.task) == (Verdict.VERIFIED, (lazy.id,), world.canaries[0][0])
    lines = {(line.account, line.reason, line.usd_micros) for line in report.claims.receipt.settlement}
    assert (f"bond:{lazy.operator}", "forfeit", -lazy.bond) in lines


def test_a_market_that_spares_a_lazy_auditor_is_refuted():
    """A verdict that leaves out whom a canary convicted is not what follows from the answers."""
    _, lazy = world_with_a_canary()
    world = World(seed=world_with_a_canary(fails_canaries={lazy.name})[0].seed, fails_canaries={lazy.name})
    world.bend["verdict"] = lambda said: replace(said, refuted=())
    report = judged(world.play())
    assert report.exit_code == 3
    assert "verdict.mismatch" in found(report)


def test_a_silent_buyer_still_pays_for_committed_work():
    """Work committed before the buyer fell silent is paid as unverified."""
    world = World(rounds=1, lanes=2)
    world.open()
    world.run_lanes(0)
    world.close()
    report = judged(world, world.receipt(status="failed", reason="buyer-silent"))
    assert report.exit_code == 4
    assert sum(line.usd_micros for line in report.claims.receipt.settlement if line.reason == "work") > 0


def test_a_credential_renewed_before_the_job_binds_nobody():
    """A node that asked too much once, and joined again for less before the order, was rightly placed."""
    world = World(rounds=1, lanes=2)
    node = world.nodes["n1"]
    honest, node.ask = node.ask, 900_000
    world._credential(node)
    node.ask = honest
    assert "placement.ineligible" not in found(judged(world.play()))


def demanding(small: str = "") -> World:
    """Return a job that asks T2, 64 cores and 64 GiB, and whose nodes have them, but for one."""
    world = World(rounds=1, lanes=2)
    spec = world.spec()
    trust, resources = replace(spec.trust, tier=Tier.T2), replace(spec.resources, cpus=64, memory_bytes=64 * 2**30)
    world.spec = lambda: replace(spec, trust=trust, resources=resources)

    def grow(held):
        weak = small and held.node == world.nodes[small].id
        return held if weak else replace(held, tier=Tier.T2, cpus=64, memory_bytes=64 * 2**30)

    world.bend["credential"] = grow
    return world


def test_a_demanding_job_on_nodes_that_fit_verifies():
    """The masks refute nobody who passes them."""
    assert judged(demanding().play()).verdict is Verdict.VERIFIED


@pytest.mark.parametrize(
    ("small", "expected"),
    [
        ("n1", {"placement.ineligible", "candidates.ineligible"}),  # a lane
        ("n4", {"placement.ineligible", "candidates.ineligible"}),  # the merge
        ("n5", {"candidates.ineligible"}),  # who might have been drawn
    ],
)
def test_a_node_below_the_masks_may_neither_work_nor_judge(small, expected):
    """A T0 node with one core is refuted in a job that asks T2, 64 cores and 64 GiB, whatever it was to do."""
    report = judged(demanding(small).play())
    assert found(report) == expected
    said = {item.observed.rpartition(": ")[2] for item in report.findings if item.id in expected}
    assert said == {"tier T0, T2 is required"}


@pytest.mark.parametrize("change", [{"cpus": 1}, {"memory_bytes": 1}, {"ask_usd_micros_per_hour": 600_000}])
def test_what_a_node_offers_when_its_work_is_done_does_not_undo_it(change):
    """It may shrink after its work; but it is paid by its last ask, which must be one the spec allows."""
    world = World(rounds=1, lanes=2)
    world.open()
    world.run_lanes(0)
    world.audit()
    world.merge(0)
    world.audit()
    world.bend["credential"] = lambda held: replace(held, **change)
    world._credential(world.nodes["n1"])
    world.close()
    ineligible = {item for item in found(judged(world)) if item.endswith(".ineligible")}
    assert ineligible == ({"placement.ineligible", "candidates.ineligible"} if "ask" in next(iter(change)) else set())


@pytest.mark.parametrize("compute_ms", [-1, -(2**53 - 1), 2**53 - 1])
def test_a_receipt_with_impossible_milliseconds_is_settled_and_verifies(compute_ms):
    """What an older market took counts as the nearest possible time: the job is concluded, the receipt holds."""

    def bend_times(said):
        return replace(said, spent=replace(said.spent, compute_ms=compute_ms, idle_ms=compute_ms))

    for kind in ("contribution", "reading"):
        world = bent(kind, bend_times, rounds=1, lanes=2).play()
        report = judged(world)
        assert not report.findings or all(item.severity != "refuted" for item in report.findings)
        split = report.claims.receipt.time_split
        parts = [getattr(split, name) for name in split.__dataclass_fields__]
        assert min(parts) >= 0
        assert sum(parts) == 10_000


def test_a_bond_of_all_the_money_beside_a_task_of_nothing_is_settled():
    """The stake ends at the largest integer that can be signed; the receipt is composed, and verifies."""
    world = World(rounds=1, lanes=2)
    for node in world.nodes.values():
        node.bond, node.ask = 2**53 - 1, 1
    report = judged(world.play())
    assert report.exit_code == 0
    assert report.claims.receipt.soundness.stake_ppm == 2**53 - 1
