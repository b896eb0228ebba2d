"""Tests of verify/; a package so that other rooms can import world.py."""
