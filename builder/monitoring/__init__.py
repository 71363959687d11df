"""Metrics of nodes, and their way to the store."""
