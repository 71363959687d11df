"""Benchmarks of pibuild, started by `make bench`."""
