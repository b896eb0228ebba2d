"""Settings: where plain HTTP is allowed, and what the command line may set."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from stannary.errors import UsageError
from stannary.jobs.retention import Retention
from stannary.market import __main__ as command
from stannary.market.settings import Settings, Timing, kept_words


@pytest.mark.parametrize(
    ("host", "plain"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.0.0.2", False), ("0.0.0.0", False), ("::", False)],
)
def test_plain_http_is_for_loopback_only(host: str, plain: bool) -> None:
    """Only the addresses that mean this machine to every client are served without TLS."""
    assert Settings(Path(), host=host).is_loopback is plain


def test_a_deadline_is_set_by_its_name() -> None:
    """--timing changes what it names and nothing else."""
    assert command._changed(Timing(), "--timing", ["sweep_s=0.5", "lost_s=7"]) == Timing(sweep_s=0.5, lost_s=7.0)


def test_how_long_bytes_are_kept_is_set_by_its_name() -> None:
    """--retention changes what it names, up to for ever, and says so; less than a day is refused."""
    kept = command._changed(Retention(), "--retention", ["ended_s=864000"])
    assert kept == Retention(ended_s=864_000.0)
    assert "10 d after a job's end" in kept_words(kept)
    assert "for ever" in kept_words(Retention(ended_s=math.inf))
    Settings(Path(), retention=Retention(ended_s=math.inf)).check()
    for figure in ("ended_s=3600", "void_s=-1", "ended_s=nan"):
        few = command._changed(Retention(), "--retention", [figure])
        with pytest.raises(UsageError, match="a day at least"):
            Settings(Path(), retention=few).check()


@pytest.mark.parametrize("text", ["sweep_s", "sweep_s=soon", "sleep_s=1"])
def test_a_deadline_nobody_knows_is_refused(text: str) -> None:
    """A wrong name or number ends the start, naming it."""
    with pytest.raises(SystemExit, match=text.partition("=")[0]):
        command._changed(Timing(), "--timing", [text])


@pytest.mark.parametrize(("host", "advertise"), [("0.0.0.0", ""), ("::", ""), ("127.0.0.1", "market.example")])
def test_an_address_nobody_could_dial_is_refused(host: str, advertise: str) -> None:
    """What would end up on the card and in join tokens must lead others here."""
    with pytest.raises(UsageError) as refused:
        Settings(Path(), host=host, advertise=advertise).check()
    assert refused.value.hint


def test_listening_everywhere_names_one_address_and_is_reached_here() -> None:
    """--host 0.0.0.0 --advertise NAME: others dial NAME, this machine its loopback."""
    settings = Settings(Path(), host="0.0.0.0", advertise="market.example")
    settings.check()
    assert (settings.address, settings.local_host) == ("market.example", "127.0.0.1")
