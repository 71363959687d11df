"""A login node's network inside this machine, and machines that boot from it."""
