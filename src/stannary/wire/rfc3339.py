"""RFC 3339 times of messages: the one spelling of formats/instants.py."""

from stannary.formats.instants import parse, spell

__all__ = ["parse", "spell"]
