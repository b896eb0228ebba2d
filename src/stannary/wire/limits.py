"""Every limit of the HTTP protocol, named once (docs/protocol.md lists them).

A client that keeps to these is never refused for size; a server enforces them before it parses.
"""

from __future__ import annotations

MAX_BODY_BYTES = 1024 * 1024  # ordinary JSON bodies; the largest is a page of log lines
MAX_ENVELOPE_BODY_BYTES = 6 * 1024 * 1024  # a DSSE payload of 4 MiB in base64, and its frame
MAX_POWER_PROOF_CHARS = 4 * 1024 * 1024  # of a proof of power (stannary/power.py): some 70 KB for two processors
MAX_BLOB_BYTES = 8 * 1024 * 1024 * 1024  # one stored object
MAX_UNANNOUNCED_BYTES = 64 * 1024 * 1024  # of an upload without Content-Length: so much of its sender's quota is held
BLOB_CHUNK_BYTES = 256 * 1024  # read and write unit of blob streams

MAX_WAIT_S = 30.0  # a long poll ends by then; below the 60 s at which proxies cut idle connections
MAX_PAGE_ITEMS = 1000  # jobs, events and log lines of one answer
MAX_LOG_LINES = 500  # lines of one upload
MAX_LOG_LINE_CHARS = 4096  # longer lines are cut by the agent; the market refuses them
MAX_LOG_LINES_PER_TASK = 20_000  # later lines of a task are dropped, once with a note
MAX_LOG_TAIL_CHARS = 16 * 1024  # what a failure carries
MAX_LEASES_HELD = 64  # ids a node may list in one message
MAX_JOBS_HELD = 64  # ids of jobs a node asks about in one beat; those that are over go, and make room for the next

SESSION_CHALLENGE_TTL_S = 60
SESSION_TTL_S = 600
JOIN_TOKEN_TTL_S = 1800
