"""Checking work by doing it again: replay, answers to audit questions, comparison, bisection.

Statistics accuse, exact recomputation convicts. Nothing here decides who is believed:
that is rules/verdict.py, which needs no torch. How a task is computed is a `Runner` that the
composition root hands in.
"""
