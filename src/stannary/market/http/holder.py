"""Who listens on a TCP port of this machine, as Linux tells (proc(5)): an error names him instead of asking around.

Only what this account may see is found; elsewhere, and where nothing is found, the answer is empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
LISTENING = "0A"  # of include/net/tcp_states.h
MAX_LINES = 100_000


def of_port(port: int, proc: Path = PROC) -> str:
    """Return `pid N (name)` of a process that listens on `port`, empty if none is found."""
    wanted = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(proc / "net" / table, port)}
    if not wanted:
        return ""
    for place in proc.glob("[0-9]*"):
        try:
            held = any(str(item.readlink()) in wanted for item in (place / "fd").iterdir())
            if held:
                return f"pid {place.name} ({(place / 'comm').read_text().strip()[:40]})"
        except OSError:  # another account's, or gone meanwhile
            continue
    return ""


def _listening(table: Path, port: int) -> Iterator[str]:
    """Yield the inodes of sockets that listen on `port`: local address, state and inode are fields 1, 3 and 9."""
    try:
        lines = table.read_text("ascii").splitlines()[1:MAX_LINES]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if len(fields) > 9 and fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]
