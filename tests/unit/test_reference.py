"""docs/reference.md: every key of cluster.yaml and every kind of step, as the models that check them describe each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from builder.inventory.json_schema import inventory_schema
from builder.recipe.steps.registry import STEP_KINDS

PROJECT = Path(__file__).parents[2]
HEAD = """# Reference

Every key of `cluster.yaml` and every kind of step, as the models have them that check what you write; `pytest
--regenerate` writes this page. For editors: `pibuild schema` and `pibuild schema cluster`.
"""


_WORDS = {"object": "mapping", "boolean": "true or false", "string": "text"}


def _type(field: dict[str, Any]) -> str:
    """Return what a key's value is, in words."""
    inner, kind = field.get("additionalProperties"), str(field.get("type", "any"))
    if "$ref" in field:
        said = str(field["$ref"]).rpartition("/")[2]
    elif choices := field.get("anyOf", field.get("oneOf")):
        said = " or ".join(_type(one) for one in choices if one.get("type") != "null")
    elif "enum" in field or "const" in field:
        said = ", ".join(map(str, field.get("enum", [field.get("const")])))
    elif kind == "array":
        said = f"list of {_type(field.get('items', {}))}"
    else:
        said = f"mapping to {_type(inner)}" if isinstance(inner, dict) else _WORDS.get(kind, kind)
    return said


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(schema: dict[str, Any]) -> str:
    rows = ["| key | value | default | |", "| --- | --- | --- | --- |"]
    for name, field in schema.get("properties", {}).items():
        given = field.get("default")
        default = (
            "required" if name in schema.get("required", []) else f"`{given}`" if given not in (None, {}, []) else ""
        )
        rows.append(f"| `{name}` | {_cell(_type(field))} | {_cell(default)} | {_cell(field.get('description', ''))} |")
    return "\n".join(rows) + "\n"


def _models(schema: dict[str, Any], head: str) -> str:
    """Return a table of a schema's own keys, then one of each model that they name."""
    parts = [f"{head}\n\n{_table(schema)}"]
    for name, model in schema.get("$defs", {}).items():
        if "properties" in model:
            about = " ".join(str(model.get("description", "")).split("\n\n")[0].split())
            parts.append(f"### {name}\n\n{about}\n\n{_table(model)}")
    return "\n".join(parts)


def _step(kind: str, model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    inner = [f"`{name}`:\n\n{_table(one)}" for name, one in schema.get("$defs", {}).items() if "properties" in one]
    return "\n".join([f"### `{kind}`\n\n{inspect.cleandoc(model.__doc__ or '')}\n\n{_table(schema)}", *inner])


def test_the_reference_is_what_the_models_say(golden: Callable[[Path, str], None]) -> None:
    steps = "\n".join(_step(kind, model) for kind, model in STEP_KINDS.items())
    text = f"{HEAD}\n{_models(inventory_schema(), '## cluster.yaml')}\n## Steps\n\n{steps}"
    golden(PROJECT / "docs/reference.md", re.sub(r"\n{3,}", "\n\n", text))


def test_the_example_fits_the_schema_and_a_slip_does_not() -> None:
    cluster = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    jsonschema.Draft202012Validator.check_schema(inventory_schema())
    jsonschema.validate(cluster, inventory_schema())
    cluster["nodes"][3]["sreial"] = "12345678"
    with pytest.raises(jsonschema.ValidationError, match="sreial"):
        jsonschema.validate(cluster, inventory_schema())
