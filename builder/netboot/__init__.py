"""The directory that diskless nodes boot from, and what goes into it."""
