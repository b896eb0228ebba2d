"""Tests of tlog/."""
