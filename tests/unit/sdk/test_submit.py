"""From job.yaml to a signed order."""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import buyer
from stannary.errors import (
    BelowPolicy,
    Interrupted,
    MarketUnreachable,
    NoCapacity,
    Refuted,
    ServiceError,
    SpecError,
    StannaryError,
    UsageError,
)
from stannary.formats import beacon, digest, dsse, jobspec, note, statement
from stannary.formats.predicates import Job
from stannary.sdk import submit
from stannary.sdk.client import Client
from stannary.sdk.profile import Profile
from stannary.sdk.submit import Overrides

MARKET_KEY = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
VKEY = note.format_vkey("test.market", dsse.public_bytes(MARKET_KEY))
HELLO = """
name: hello
recipe: {entry: recipe.py:recipe, rounds: 2, lanes: 2}
inputs: {corpus: {module: pydoc_data.topics}, notes: {path: notes.txt}}
budget: 1.00
"""


@pytest.fixture
def job_file(tmp_path) -> Path:
    place = tmp_path / "job"
    place.mkdir()
    (place / "recipe.py").write_text("recipe = None\n")
    (place / "notes.txt").write_text("notes\n")
    (place / "job.yaml").write_text(HELLO)
    return place / "job.yaml"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_module_input_is_the_text_of_its_topics(job_file):
    """The corpus is the language reference every CPython carries, by digest."""
    prepared = submit.prepare(job_file, Overrides())
    topics = pydoc_data.topics.topics
    expected = "\n\n".join(topics[name] for name in sorted(topics)).encode()
    assert prepared.spec.inputs["corpus"].digest == digest.digest(expected)
    assert prepared.spec.inputs["corpus"].source == "module pydoc_data.topics"


def test_every_file_and_input_is_a_blob_once(job_file):
    """Work directory and inputs become blobs; equal bytes are sent once."""
    prepared = submit.prepare(job_file, Overrides())
    assert {blob.digest for blob in prepared.blobs} >= {item.digest for item in prepared.spec.workdir}
    assert len(prepared.blobs) == 4  # job.yaml, notes.txt (also an input), recipe.py, corpus
    for blob in prepared.blobs:
        with blob.open() as file:
            assert digest.digest(file.read()) == blob.digest


def test_flags_take_the_place_of_the_file(job_file):
    """--budget, --max-price and -e override; nonsense in them is refused like in the file."""
    spec = submit.prepare(job_file, Overrides(budget="2.5", max_price="0.2", envs={"A": "b"})).spec
    assert (spec.budget_usd_micros, spec.trust.max_price_usd_micros_per_hour) == (2_500_000, 200_000)
    assert spec.envs == {"A": "b"}
    with pytest.raises(SpecError):
        submit.prepare(job_file, Overrides(budget="much"))
    with pytest.raises(SpecError, match="not yet"):
        submit.prepare(job_file, Overrides(trust="T2"))


@pytest.mark.parametrize(
    "text",
    [
        "name: a\nname: b\n",
        "recipe: {entry: a, entry: b}",
        "[unclosed",
        "- 1\n- 2",
        "when: 2026-99-99",
        "name: !!python/object/apply:os.system ['true']",
        "budget: " + "9" * 10_000,
        "a: " + "[" * 5_000,
        "&a [*a]",
        "\x00",
    ],
)
def test_text_that_is_no_job_is_refused_in_our_words(job_file, text):
    """Duplicate keys, tags that build objects, broken dates, deep nesting: one SpecError each."""
    with pytest.raises(SpecError):
        submit.prepare(write(job_file, text), Overrides())


def test_a_huge_job_file_is_refused(job_file):
    """The text is bounded before it is parsed."""
    with pytest.raises(SpecError, match="too large"):
        submit.prepare(write(job_file, "#" * (submit.jobtext.MAX_TEXT_BYTES + 1)), Overrides())


@pytest.mark.parametrize("module", ["numpy", "os.path.nope", "../etc/passwd", "pydoc_data..topics"])
def test_modules_outside_the_standard_library_are_refused(job_file, module):
    """A module input names a standard library file; nothing is imported to read it."""
    with pytest.raises(SpecError):
        submit.prepare(write(job_file, HELLO.replace("pydoc_data.topics", module)), Overrides())


def test_reading_a_module_does_not_run_it(job_file, capsys):
    """`this` prints when imported; as an input it is text."""
    submit.prepare(write(job_file, HELLO.replace("pydoc_data.topics", "this")), Overrides())
    assert capsys.readouterr().out == ""


class Market:
    """Takes an envelope, or raises."""

    def __init__(self, error: StannaryError | None = None) -> None:
        self.error, self.sent = error, []

    def submit(self, envelope, key):
        self.sent.append((envelope, key))
        if self.error is not None:
            raise self.error
        return "view"


def test_the_order_is_on_disk_with_its_seed_before_it_is_sent(job_file, tmp_path):
    """Seed and signed order survive a crash right after sending, and belong together."""
    market = Market(MarketUnreachable("gone"))
    spec = submit.prepare(job_file, Overrides()).spec
    with pytest.raises(MarketUnreachable) as caught:
        submit.submit(market, spec, Profile("p", "http://127.0.0.1:1", VKEY), tmp_path)
    (place,) = buyer.list_orders(tmp_path)
    order = buyer.load_order(place)
    assert order.job in caught.value.hint
    assert not order.has_ended
    assert beacon.tip(order.seed(), order.statement.beacon_length) == order.statement.beacon_tip


def test_the_statement_is_signed_by_the_buyer_for_this_market(job_file, tmp_path):
    """The envelope verifies under the buyer's key and holds spec, market and tip; its key is its digest."""
    market = Market()
    spec = submit.prepare(job_file, Overrides()).spec
    submit.submit(market, spec, Profile("p", "http://127.0.0.1:1", VKEY), tmp_path)
    ((envelope, key),) = market.sent
    public = dsse.public_bytes(buyer.load_key(tmp_path))
    job = statement.open_envelope(envelope, "job", Job, public).predicate
    assert jobspec.from_canonical(job.spec) == spec
    assert job.market == dsse.key_id(dsse.public_bytes(MARKET_KEY))
    assert key == digest.digest(envelope.payload)


@pytest.mark.parametrize(
    "refusal",
    [UsageError("budget too small"), NoCapacity("no place"), BelowPolicy("tier"), Refuted("the log forks")],
)
def test_a_refused_order_is_not_waited_for(job_file, tmp_path, refusal):
    """When the market says no for good, the broker is told that nothing will come."""
    spec = submit.prepare(job_file, Overrides()).spec
    with pytest.raises(type(refusal)):
        submit.submit(Market(refusal), spec, Profile("p", "u", VKEY), tmp_path)
    assert buyer.load_order(buyer.list_orders(tmp_path)[0]).has_ended


@pytest.mark.parametrize("trouble", [ServiceError("status 504", hint="try again"), KeyboardInterrupt()])
def test_an_order_that_may_have_arrived_is_not_sent_anew(job_file, tmp_path, trouble):
    """A gateway's error or Ctrl-C while sending: the hint looks for the job, for a second one would be paid too."""
    spec = submit.prepare(job_file, Overrides()).spec
    with pytest.raises((ServiceError, Interrupted), match="may or may not have arrived") as caught:
        submit.submit(Market(trouble), spec, Profile("p", "u", VKEY), tmp_path)
    order = buyer.load_order(buyer.list_orders(tmp_path)[0])
    assert caught.value.hint == f"stannary wait {order.job}" and not order.has_ended


class NewerMarket:
    """A connection to a market that takes the job and answers with a member this client does not know."""

    def send(self, method, path, **_):
        return SimpleNamespace(content=b'{"id": "j-000000000000", "mood": "good"}')


def test_a_job_whose_answer_cannot_be_read_has_arrived(job_file, tmp_path):
    """The broker goes on answering for it: the market holds the buyer's money."""
    spec = submit.prepare(job_file, Overrides()).spec
    with pytest.raises(ServiceError, match="cannot be read"):
        submit.submit(Client(NewerMarket()), spec, Profile("p", "u", VKEY), tmp_path)
    assert not buyer.load_order(buyer.list_orders(tmp_path)[0]).has_ended


def test_no_pinned_key_no_order(job_file, tmp_path):
    """Without the market's key nothing it says could be checked later."""
    with pytest.raises(UsageError, match="pinned"):
        submit.submit(Market(), submit.prepare(job_file, Overrides()).spec, Profile("p", "u"), tmp_path)


class TestSecrets:
    """What looks like a secret is refused before anything is read from the network or sent."""

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("run: python a.py\nenvs: {HF_TOKEN: abc}\n", "HF_TOKEN"),
            ("run: python a.py\nenvs: {X: hf_aaaaBBBBccccDDDD1111}\n", "X"),
            ("run: HF_TOKEN=abc python a.py\n", "run"),
            ("recipe: {entry: recipe.py:recipe, rounds: 1, options: {api_key: abc}}\n", "recipe.options.api_key"),
            ("run: python a.py\nsetup: requirements.txt\n", "setup"),
            ("run: python a.py\ninputs: {k: {path: id_rsa}}\n", "k"),
            ("run: python a.py\ninputs: {k: {path: .aws/config}}\n", "k"),
        ],
    )
    def test_refused_unless_named(self, job_file, text, name):
        """The error names the flag that sends it all the same, says that sealed secrets come, and repeats no value."""
        locked = "tin==1.0 --hash=sha256:" + "0" * 64
        (job_file.parent / "requirements.txt").write_text(f"# from https://me:pw@index.example/simple\n{locked}\n")
        (job_file.parent / "id_rsa").write_text("x")
        (job_file.parent / ".aws").mkdir()
        (job_file.parent / ".aws" / "config").write_text("x")
        write(job_file, text)
        with pytest.raises(SpecError, match="secret") as caught:
            submit.prepare(job_file, Overrides())
        assert caught.value.hint.endswith(f"--allow-secret-env {name}")
        assert "later" in caught.value.why
        assert "hf_aaaa" not in caught.value.diagnostics()
        assert submit.prepare(job_file, Overrides(allowed_secrets=frozenset({name}))).spec

    def test_flags_are_looked_at_too(self, job_file):
        """-e is no way round."""
        with pytest.raises(SpecError, match="API_KEY"):
            submit.prepare(job_file, Overrides(envs={"API_KEY": "abc"}))

    def test_our_own_files_are_no_input(self, job_file, home):
        """An input that is our key, also by a link, is refused whatever is allowed."""
        buyer.load_key(buyer.root())
        (job_file.parent / "k").symlink_to(buyer.root() / "key")
        write(job_file, "run: python a.py\ninputs: {k: {path: k}}\n")
        (job_file.parent / ".stannaryignore").write_text("k\n")
        with pytest.raises(SpecError, match="own files"):
            submit.prepare(job_file, Overrides(allowed_secrets=frozenset({"k"})))

    def test_a_file_that_stays_is_named_with_its_reason(self, job_file):
        """A setup list or recipe that an ignore file keeps back: which file says so, and the line that brings it."""
        (job_file.parent / ".gitignore").write_text("recipe.py\n")
        with pytest.raises(SpecError, match="does not travel") as caught:
            submit.prepare(job_file, Overrides())
        assert ".gitignore" in caught.value.why
        assert "!recipe.py" in caught.value.hint
        (job_file.parent / ".stannaryignore").write_text("!recipe.py\n")
        assert submit.prepare(job_file, Overrides()).spec
