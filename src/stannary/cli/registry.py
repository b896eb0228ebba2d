"""Every command: its name, where it lives, and its line in the help.

A command's module is imported only when the command is used, so the help never pays for torch,
pydantic or an HTTP client. To add one, write cli/commands/<name>.py with a `@command` and a line here.
"""

from __future__ import annotations

from typing import NamedTuple


class Listed(NamedTuple):
    """Where a command lives (`module:attribute`) and its line in the help."""

    target: str
    summary: str


_COMMANDS = "stannary.cli.commands"

COMMANDS: dict[str, Listed] = {
    "run": Listed(f"{_COMMANDS}.run:run", "Run a job and follow it to its receipt."),
    "lock": Listed(f"{_COMMANDS}.lock:lock", "Lock a list of packages to exact versions and hashes."),
    "ls": Listed(f"{_COMMANDS}.jobs:ls", "List your jobs."),
    "show": Listed(f"{_COMMANDS}.jobs:show", "Show where a job is, and what it waits for."),
    "logs": Listed(f"{_COMMANDS}.logs:logs", "Show what a job printed."),
    "stop": Listed(f"{_COMMANDS}.jobs:stop", "Cancel a job."),
    "wait": Listed(f"{_COMMANDS}.wait:wait", "Wait for a job's end; the exit code is its outcome."),
    "cost": Listed(f"{_COMMANDS}.cost:cost", "Show who was paid what, and where the time went."),
    "get": Listed(f"{_COMMANDS}.get:get", "Fetch a job's results."),
    "verify": Listed(f"{_COMMANDS}.verify:verify", "Check a receipt or a ruling offline, against pinned keys."),
    "rulings": Listed(f"{_COMMANDS}.rulings:rulings", "List the bonds a job disputes; fetch what was ruled."),
    "offers": Listed(f"{_COMMANDS}.offers:offers", "Show what nodes sell."),
    "certify": Listed(f"{_COMMANDS}.certify:certify", "Check a machine's evidence and grade."),
    "policy": Listed(f"{_COMMANDS}.policy:policy", "Explain and test trust policies."),
    "seal": Listed(f"{_COMMANDS}.seal:seal", "Seal files into an artifact."),
    "open": Listed(f"{_COMMANDS}.open:open_", "Open a sealed artifact."),
    "artifact": Listed(f"{_COMMANDS}.artifact:artifact", "Inspect sealed artifacts."),
    "trust": Listed(f"{_COMMANDS}.trust:trust", "Manage the keys receipts are checked against."),
    "node": Listed(f"{_COMMANDS}.node:node", "Sell this machine's power."),
    "market": Listed(f"{_COMMANDS}.market:market", "Use markets, or run one."),
    "broker": Listed(f"{_COMMANDS}.broker:broker", "Answer for your open jobs, also on an always-on machine."),
    "config": Listed(f"{_COMMANDS}.config:config", "Show the configuration and where it came from."),
}

NODE_COMMANDS: dict[str, Listed] = {
    "join": Listed(f"{_COMMANDS}.node:join", "Join a market with a token."),
    "run": Listed(f"{_COMMANDS}.node:run", "Run the agent in the foreground."),
    "ls": Listed(f"{_COMMANDS}.node:ls", "List the nodes kept on this machine."),
    "status": Listed(f"{_COMMANDS}.node:status", "Show a node's market, engine class and process."),
    "canary": Listed(f"{_COMMANDS}.node:canary", "Ask the market to look at a suspended node again."),
    "drain": Listed(f"{_COMMANDS}.node:drain", "Finish the work at hand, take no more, and stop."),
    "leave": Listed(f"{_COMMANDS}.node:leave", "Remove a stopped node from this machine."),
    "check": Listed(f"{_COMMANDS}.node_check:check", "Measure this machine as certification would."),
}
