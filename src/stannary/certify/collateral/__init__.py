"""Collateral that is fetched: what evidence needs of vendors, where they give it, and how it is kept."""
