"""Where what pibuild ships beside its code lies: overlays and recipes."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
OVERLAYS = PROJECT / "overlays"
