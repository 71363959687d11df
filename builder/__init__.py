"""pibuild: golden images and netboot roots for Raspberry Pi clusters."""

__version__ = "0.1.0"
