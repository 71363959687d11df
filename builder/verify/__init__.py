"""Whether an image would boot, and whether it did."""
