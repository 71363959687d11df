"""Programs of another architecture inside a root."""
