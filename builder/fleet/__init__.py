"""The manager that nodes report to."""
