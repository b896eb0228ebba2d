"""Ruling files of a market that lies with its own keys: what is true holds, each lie is refuted by both verifiers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.second_verifier import ruling as second
from tests.second_verifier.evidence import Pins
from tests.unit.verify.test_ruling import FRESH, RELEASED, WHEN, Trial, trial
from tests.unit.verify.world import CLASS, key_of

from stannary.formats import canonical, commitments, digest, dsse, ids, note, predicates, statement
from stannary.formats.digest import Digest
from stannary.formats.predicates import AnswerCommitment, Appeal, Candidate
from stannary.formats.receipt import EarlierCheckpoint, LoggedEnvelope
from stannary.formats.ruling import RulingFile
from stannary.tlog.proof import Proof
from stannary.verify.appealed import RulingReport, recomputed, verify_ruling
from stannary.verify.recomputation import Found, Outcome
from stannary.verify.report import Severity
from stannary.verify.ruling import Papers

KEYS = {name: key_of(f"hearer {name}") for name in FRESH}
NODES = {name: ids.node_id(dsse.public_bytes(key)) for name, key in KEYS.items()}
NAMES = {node: name for name, node in NODES.items()}
NOW = 2**33


def same(item: Any) -> Any:
    """Leave what is honest."""
    return item


@dataclass
class Court:
    """A market that takes a dispute to its ruling; `bend` changes what is said before it is signed, per kind."""

    it: Trial
    words: Sequence[str] = ("", "", "")  # what each hearer finds: the truth, or a lie of that word
    bend: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    bend_file: Callable[[RulingFile], RulingFile] = same
    keys: dict[str, Ed25519PrivateKey] = field(default_factory=dict)  # who signs a kind instead
    opens_early: bool = False  # an answer is opened before the last one is committed to
    lists_late: bool = False  # who may hear is listed behind the checkpoint that draws

    def file(self) -> bytes:
        """Hear, rule, and write the file."""
        self.tree = copy.deepcopy(self.it.day.tree)
        self.logged: list[tuple[int, dsse.Envelope]] = []
        receipt = canonical.decode_object(self.it.data)
        assert isinstance(receipt["receipt"], dict)
        for name in FRESH:
            self._log("credential", self._paper(name))
        said = self._said(dsse.parse(receipt["receipt"]).leaf())
        early = self._checkpoint() if self.lists_late else None
        size, root = self.tree.size, digest.from_raw(self.tree.root())
        opened = self._log("appeal", said)
        drawn = early or self._checkpoint()
        if early is None:
            size, root = self.tree.size, digest.from_raw(self.tree.root())
        told = self._hear(said, opened, root)
        ruled = replace(self.it.decided(told), appeal=opened, checkpoint_size=size, checkpoint_root=root)
        envelope = statement.sign("ruling", self._bent("ruling", ruled), (), self._key("ruling"))
        index = self.tree.append(envelope.leaf())
        final, whole = self._checkpoint(), self.tree.size
        old = note.parse_checkpoint(note.parse(str(receipt["proof"]).partition("\n\n")[2]).text).size
        made = RulingFile(
            receipt=receipt,
            consistency=tuple(self.tree.consistency(old, whole)),
            ruling=envelope,
            proof=Proof(index, tuple(self.tree.inclusion(index, whole)), final).to_text(),
            drawn=EarlierCheckpoint(drawn, tuple(self.tree.consistency(size, whole))),
            evidence=tuple(self._proved(at, item, whole) for at, item in self.logged),
        )
        return self.bend_file(made).to_bytes()

    def _hear(self, said: Appeal, opened: Digest, root: Digest) -> Papers:
        told = self.it.papers(*self.words, opened=said, leaf=opened, root=root)
        answers = []
        for number, item in enumerate(told.heard):
            name = NAMES[item.answer.node]
            blind = commitments.answer_commitment_hash(
                item.answer.node, item.answer.blind, item.answer.answer, item.answer.root
            )
            made = AnswerCommitment(
                item.answer.job, item.answer.audit, item.answer.task, item.answer.role, item.answer.node, blind
            )
            if self.opens_early and number == len(told.heard) - 1:
                answers.append(self._log("answer", told.heard[0].answer, NAMES[told.heard[0].answer.node]))
            self._log("answer-commitment", made, name)
        rest = told.heard[1:] if self.opens_early else told.heard
        answers += [self._log("answer", item.answer, NAMES[item.answer.node]) for item in rest]
        heard = zip(told.heard, answers, strict=True)
        papers = [replace(x, leaf=leaf, credential=self._paper(NAMES[x.answer.node])) for x, leaf in heard]
        return replace(told, heard=tuple(papers))

    def _said(self, leaf: bytes) -> Appeal:
        candidates = sorted((Candidate(NODES[name], name, CLASS) for name in FRESH), key=lambda item: item.node)
        return Appeal(
            self.it.case.job_id,
            self.it.dispute.task,
            self.it.dispute.node,
            digest.from_raw(leaf),
            tuple(candidates),
            WHEN,
        )

    def _paper(self, name: str) -> predicates.Credential:
        like = self.it.case.credential(self.it.dispute.node)
        key = dsse.encode_base64(dsse.public_bytes(KEYS[name]))
        return replace(like, node=NODES[name], key=key, operator=name)

    def _log(self, kind: str, predicate: Any, signer: str = "") -> Digest:
        key = KEYS[signer] if signer else self._key(kind)
        envelope = statement.sign(kind, self._bent(kind, predicate), (), self.keys.get(kind, key))
        self.logged.append((self.tree.append(envelope.leaf()), envelope))
        return digest.from_raw(envelope.leaf())

    def _bent(self, kind: str, predicate: Any) -> Any:
        return self.bend.get(kind, same)(predicate)

    def _key(self, kind: str) -> Ed25519PrivateKey:
        return self.keys.get(kind, self.it.day.market_key)

    def _checkpoint(self) -> str:
        text = note.sign_checkpoint(self.it.day.name, self.tree.size, self.tree.root(), self.it.day.market_key)
        line = note.cosign(text, "local.witness", self.it.day.witness_key, self.it.day.now + 3600)
        return note.add_cosignatures(text, [line])

    def _proved(self, at: int, item: dsse.Envelope, size: int) -> LoggedEnvelope:
        return LoggedEnvelope(item, at, tuple(self.tree.inclusion(at, size)))


def judge(court: Court) -> tuple[RulingReport, set[str]]:
    """Return our report, and what refutes the ruling; both verifiers must say the same."""
    data, day = court.file(), court.it.day
    ours = verify_ruling(data, day.trust(), NOW)
    theirs = second.verify(data, [Pins(day.vkey, (day.witness_vkey,), ())], NOW)
    refuted = {item.id for item in ours.findings if item.severity is Severity.REFUTED}
    assert refuted == {name for name, weight in theirs if weight == "refuted"}
    assert (ours.exit_code == 3) is bool(refuted)
    return ours, refuted


@pytest.mark.parametrize("who", ["liar", "mute liar", "worker", "auditor"])
def test_an_honest_ruling_holds(who: str) -> None:
    """Whoever loses by it: the file alone is enough, and says what is to be computed again."""
    court = Court(trial(who))
    report, refuted = judge(court)
    assert refuted == set()
    assert report.exit_code == 0
    assert report.dispute is not None
    assert report.dispute.to_replay() == court.it.dispute.to_replay()


def set_to(**change: Any) -> Callable[[Any], Any]:
    """Return what changes members of a predicate."""
    return lambda item: replace(item, **change)


OTHER = digest.digest(b"another")
JOB, NODE = "j-000000000000", "n-000000000000"
LIES: dict[str, dict[str, Any]] = {
    "ruling: another job": {"bend": {"ruling": set_to(job=JOB)}},
    "ruling: another task": {"bend": {"ruling": set_to(task=f"{JOB}/r0/l0/a0")}},
    "ruling: another node": {"bend": {"ruling": set_to(node=NODE)}},
    "ruling: another appeal": {"bend": {"ruling": set_to(appeal=OTHER)}},
    "ruling: another size": {"bend": {"ruling": set_to(checkpoint_size=1)}},
    "ruling: another root": {"bend": {"ruling": set_to(checkpoint_root=OTHER)}},
    "ruling: another outcome": {"bend": {"ruling": set_to(outcome=RELEASED)}},
    "ruling: another reason": {"bend": {"ruling": set_to(reason="replayed")}},
    "ruling: no reason": {"bend": {"ruling": set_to(reason="")}},
    "ruling: an answer less": {"bend": {"ruling": lambda item: replace(item, heard=item.heard[1:])}},
    "ruling: nobody heard": {"bend": {"ruling": set_to(heard=())}},
    "ruling: answers re-ordered": {"bend": {"ruling": lambda item: replace(item, heard=item.heard[::-1])}},
    "ruling: lines re-ordered": {"bend": {"ruling": lambda item: replace(item, lines=item.lines[::-1])}},
    "ruling: a line less": {"bend": {"ruling": lambda item: replace(item, lines=item.lines[:-1])}},
    "ruling: no lines": {"bend": {"ruling": set_to(lines=())}},
    "ruling: of a stranger's key": {"keys": {"ruling": key_of("stranger")}},
    "appeal: another job": {"bend": {"appeal": set_to(job=JOB)}},
    "appeal: another task": {"bend": {"appeal": set_to(task=f"{JOB}/r0/l0/a0")}},
    "appeal: another node": {"bend": {"appeal": set_to(node=NODE)}},
    "appeal: another receipt": {"bend": {"appeal": set_to(receipt=OTHER)}},
    "appeal: a candidate less": {"bend": {"appeal": lambda item: replace(item, candidates=item.candidates[1:])}},
    "appeal: candidates re-ordered": {"bend": {"appeal": lambda item: replace(item, candidates=item.candidates[::-1])}},
    "appeal: a candidate twice": {
        "bend": {"appeal": lambda item: replace(item, candidates=(*item.candidates, item.candidates[-1]))}
    },
    "appeal: a candidate of another operator": {
        "bend": {
            "appeal": lambda item: replace(
                item, candidates=tuple(replace(one, operator=f"{one.operator}-2") for one in item.candidates)
            )
        }
    },
    "appeal: of a stranger's key": {"keys": {"appeal": key_of("stranger")}},
    "appeal: listed behind the draw": {"lists_late": True},
    "answers: opened before the last is blinded": {"opens_early": True},
    "answers: another than was blinded": {"bend": {"answer": set_to(blind="11" * 32)}},
    "answers: another root than its outputs": {"bend": {"answer": set_to(outputs=())}},
    "answers: of another job": {"bend": {"answer": set_to(job=JOB)}},
    "answers: of a stranger's key": {"keys": {"answer": key_of("stranger")}},
    "answers: blinded by a stranger": {"keys": {"answer-commitment": key_of("stranger")}},
    "credentials: of another key": {
        "bend": {"credential": set_to(key=dsse.encode_base64(dsse.public_bytes(key_of("stranger"))))}
    },
    "credentials: of another operator": {"bend": {"credential": set_to(operator="own")}},
    "credentials: of a stranger's key": {"keys": {"credential": key_of("stranger")}},
    "file: something beside": {
        "bend_file": lambda file: replace(file, evidence=tuple(file.evidence[:-1])),
    },
    "file: another path": {
        "bend_file": lambda file: replace(
            file, evidence=(replace(file.evidence[0], path=file.evidence[1].path), *file.evidence[1:])
        ),
    },
    "file: another proof of the receipt's log": {"bend_file": lambda file: replace(file, consistency=())},
    "file: another proof of the draw": {
        "bend_file": lambda file: replace(file, drawn=replace(file.drawn, consistency=())),
    },
    "file: no appeal": {"bend_file": lambda file: replace(file, evidence=file.evidence[4:])},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_market_is_refuted(lie: str) -> None:
    """One word, order, key or proof changed, signed and logged as if it were true."""
    _, refuted = judge(Court(trial("liar"), **LIES[lie]))
    assert refuted


def test_a_ruling_of_another_job_is_refuted() -> None:
    """Replayed under a receipt it is not about: nothing fits."""
    own, other = (json.loads(Court(trial(who)).file()) for who in ("liar", "worker"))
    day = trial("liar").day
    own["receipt"] = other["receipt"]
    data = json.dumps(own).encode()
    report = verify_ruling(data, day.trust(), NOW)
    theirs = second.verify(data, [Pins(day.vkey, (day.witness_vkey,), ())], NOW)
    assert report.exit_code == 3
    assert "refuted" in {weight for _, weight in theirs}


@cache
def honest() -> bytes:
    """Return an honest file."""
    return Court(trial("liar")).file()


@pytest.mark.parametrize("member", ["format", "receipt", "consistency", "ruling", "proof", "drawn", "evidence"])
def test_a_file_is_whole_or_none(member: str) -> None:
    """A member that lacks, or is null, or one too many: refuted by both."""
    day = trial("liar").day
    for change in ("lacks", "null", "more"):
        value = json.loads(honest())
        if change == "lacks":
            del value[member]
        else:
            value[member if change == "null" else f"{member}2"] = None
        data = json.dumps(value).encode()
        assert verify_ruling(data, day.trust(), NOW).exit_code == 3
        assert ("ruling.malformed", "refuted") in second.verify(data, [Pins(day.vkey, (day.witness_vkey,), ())], NOW)


def test_an_unknown_log_is_below_policy() -> None:
    """Without the market's key nothing is said of it."""
    from stannary.verify.trust import TrustStore

    report = verify_ruling(honest(), TrustStore(), NOW)
    assert report.exit_code == 4
    assert report.ruling is None


@pytest.mark.parametrize(
    ("outcome", "exit_code"),
    [(Outcome.DIFFERENT, 0), (Outcome.SAME, 3), (Outcome.WITHIN, 3), (Outcome.UNCHECKED, 4)],
)
def test_who_computes_the_unit_again_need_not_believe_it(outcome: Outcome, exit_code: int) -> None:
    """A forfeit whose unit comes out as the accused said is refuted; what cannot be computed here is below policy."""
    report, _ = judge(Court(trial("liar")))
    assert report.ruling is not None
    found = Found(report.ruling.task, outcome, CLASS)
    assert report.with_(recomputed(report.ruling, found)).exit_code == exit_code
    opposite = replace(report.ruling, outcome=RELEASED)
    expected = {0: 3, 3: 0, 4: 4}[exit_code]
    assert report.with_(recomputed(opposite, found)).exit_code == expected
    unheard = replace(opposite, reason="unheard")
    assert report.with_(recomputed(unheard, found)).exit_code in (0, 4)
    stories = replace(report.ruling, reason="two-statements")  # whatever the unit comes to: both are signed
    assert report.with_(recomputed(stories, found)).exit_code in (0, 4)
