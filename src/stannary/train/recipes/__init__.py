"""Recipes of this package, named by `entry: builtin:NAME`: each a module with a factory `recipe` (train/recipe.py)."""
