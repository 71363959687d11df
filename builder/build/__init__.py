"""From a recipe to layers, a tree and an image."""
