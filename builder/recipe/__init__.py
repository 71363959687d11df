"""Recipes: what people write, checked and resolved."""
