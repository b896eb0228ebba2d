"""Root file systems that a market publishes by digest: one tar, unpacked once on each machine (docs/sandbox.md)."""
