"""Transparency log: an RFC 6962 tree in C2SP tlog-tiles files, its proofs, its witness."""
