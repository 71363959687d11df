"""What the Raspberry Pi's firmware reads, and a simulation of what it does."""
