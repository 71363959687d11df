"""Backups of nodes: repository, gateway, rotation of keys."""
