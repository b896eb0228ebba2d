"""`stannary node check`: measure this machine as certification would."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stannary import files
from stannary.cli.command import command
from stannary.cli.commands.certify_files import MAKE_CHALLENGE, advised, read, read_as
from stannary.cli.output import Output, plain
from stannary.errors import UsageError

if TYPE_CHECKING:
    from stannary.certify.collect.sources import Sources

DEFAULT_BENCH_S = 5.0


@command
@click.option("--challenge", "challenge_file", type=click.Path(path_type=Path), help="Challenge to answer.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write the evidence.")
@click.option("--tpm", default="", metavar="DEVICE|HOST:PORT", help="TPM to use  [default: /dev/tpmrm0]")
@click.option("--ek", default="", metavar="NAME", help="EK to use, e.g. ecc-p384  [default: the first certified]")
@click.option(
    "--ek-certificate",
    "certificates",
    multiple=True,
    type=click.Path(path_type=Path),
    help="EK certificate from the TPM maker's site, where the TPM holds none.",
)
@click.option("--ek-issuer", "issuers", multiple=True, type=click.Path(path_type=Path), help="Issuer of its EK.")
@click.option("--bind-key", type=click.Path(path_type=Path), help="Public key to bind; made here if absent.")
@click.option("--bench-s", type=click.FloatRange(0, 600), default=DEFAULT_BENCH_S, show_default=True, help="0: skip.")
@click.option("--bench-n", type=click.IntRange(0, 8192), default=0, help="Matrix size; 0 chooses.")
@advised
def check(out: Output, challenge_file: Path | None, output: Path | None, **options: Any) -> int | None:
    """Measure this machine. Alone: each requirement measured beside required. With a challenge: evidence."""
    from stannary.certify.collect.sources import Sources

    sources = Sources(
        tpm=options["tpm"],
        ek=options["ek"],
        ek_certificates=options["certificates"],
        ek_chain=options["issuers"],
        bound_key=b"" if options["bind_key"] is None else read(options["bind_key"]),
        bench_s=options["bench_s"],
        bench_n=options["bench_n"],
    )
    if challenge_file is None:
        if output is not None:
            raise UsageError("evidence needs a challenge", hint="stannary certify challenge -o c.json")
        return _requirements(out, sources)
    if output is None:
        raise UsageError("where to write the evidence is not said", hint="add -o evidence.json")
    _answer(out, challenge_file, output, sources)
    return None


def _requirements(out: Output, sources: Sources) -> int:
    from stannary.certify.collect import survey

    found = survey.requirements(sources)
    lines = [
        f"{'yes' if item.holds else 'NO':<5}{item.serves:<4}{item.name:<21} {item.measured}; asked: {item.required}"
        for item in found
    ]
    out.result({"requirements": [item.to_json() for item in found]}, lines)
    steps: dict[str, list[str]] = {}
    for item in found:
        if not item.holds and item.next:
            steps.setdefault(item.next, []).append(f"{item.name} ({item.serves})")
    for step, names in steps.items():
        out.say(f"next, for {' or '.join(names)}: {step}")
    out.say("a machine's own word proves nothing: answer a challenge (stannary certify challenge) to be appraised")
    return 0


def _answer(out: Output, challenge: Path, output: Path, sources: Sources) -> None:
    from stannary.certify import challenge as challenges
    from stannary.certify.collect.node import check as collect

    evidence, absent, ran = collect(read_as(challenge, challenges.parse, MAKE_CHALLENGE), sources)
    files.replace(output, evidence.to_bytes())
    for name, collector in ran.items():
        out.say(f"{name}: collected through {collector}")
    for name, reason in absent.items():
        out.say(f"no {name}: {plain(reason)}")
    held = ", ".join(evidence.parts) or "no hardware evidence"
    out.result(
        {
            "evidence": evidence.digest(),
            "parts": list(evidence.parts),
            "ran": ran,
            "absent": absent,
            "file": str(output),
        },
        f"{output}\nholds {held}{', power test' if evidence.bench else ''}\n"
        f"next, on your own machine: stannary certify appraise {output.name} --challenge {challenge.name}",
    )
