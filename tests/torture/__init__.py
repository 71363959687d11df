"""Commands killed at random moments, on a full disk, two at once: nothing lost, nothing left. See `make torture`."""
