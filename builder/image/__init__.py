"""Disk images: written without mounting, read, attached, published."""
