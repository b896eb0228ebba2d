"""Vectors: evidence with expected outcomes, run from a manifest."""
