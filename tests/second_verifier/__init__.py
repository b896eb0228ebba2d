"""A second verifier, written from docs/receipt.md alone: nothing of stannary is imported here.

It is small, slow and blunt; its one purpose is to differ from ours where page and code differ. Paragraphs of the
page stand beside what they say.
"""
