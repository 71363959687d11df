"""Settings as they flow: with the attributes of the schema's models, but no models.

A model of pydantic's costs its import wherever it goes, most of the start of a command. So what was checked is handed
on without.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from builder.inventory.schema import Written

    Settings = TypeVar("Settings", bound=Written)


class Settled(SimpleNamespace):
    """Settings under the names of their model. Nobody changes them; `changed` makes others."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is settled")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} is settled")


def settle(model: Settings) -> Settings:
    """Return a model's settings; to the type checker they stay the model, whose attributes they have."""
    return cast("Settings", _settled(model))


def _settled(value: Any) -> Any:
    fields = getattr(type(value), "model_fields", None)
    return value if fields is None else Settled(**{name: _settled(getattr(value, name)) for name in fields})


def changed(settings: Settings, **changes: object) -> Settings:
    """Return settings with some of them changed."""
    return cast("Settings", Settled(**{**vars(settings), **changes}))
