"""Stannary: run AI jobs on machines you do not own and get back proof."""

__version__ = "0.1.0"
