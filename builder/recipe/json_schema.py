"""A JSON Schema of recipe files, for editors, from the models that check them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from builder.recipe.schema import RecipeDocument
from builder.recipe.steps.base import Step
from builder.recipe.steps.registry import STEP_KINDS

_TEMPLATE = {"type": "string", "pattern": r"\{\{.*\}\}"}
_INHERITED = ("RecipeDocument", "BaseChoice", "Bootstrap", "BaseImage")  # what one file lacks another may say

_TYPED = {"integer", "number", "boolean", "array"}
_NARROW = {"enum", "const", "pattern"}

Schema = dict[str, Any]


def recipe_schema(kinds: Mapping[str, type[Step]] = STEP_KINDS) -> Schema:
    """Return the schema of a recipe file, draft 2020-12. Where a field is no text, `{{ name }}` is allowed as well."""
    models: list[type[BaseModel]] = [RecipeDocument, *dict.fromkeys(kinds.values())]
    names, combined = models_json_schema([(model, "validation") for model in models], title="pibuild recipe")
    definitions: Schema = combined["$defs"]
    for name in _INHERITED:
        definitions[name].pop("required", None)
    steps = {kind: _step_schema(model, names[(model, "validation")], definitions) for kind, model in kinds.items()}
    definitions["LayerDocument"]["properties"]["steps"]["items"] = {"oneOf": [_entry(*step) for step in steps.items()]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pibuild recipe",
        **names[(RecipeDocument, "validation")],
        "$defs": {name: _with_templates(definition) for name, definition in definitions.items()},
    }


def _entry(kind: str, schema: Schema) -> Schema:
    return {"type": "object", "properties": {kind: schema}, "required": [kind], "additionalProperties": False}


def _step_schema(model: type[Step], reference: Schema, definitions: Schema) -> Schema:
    """Return the schema of a step's value: its mapping, or the list that stands for it."""
    field: str | None = getattr(model, "list_field", None)
    if field is None:
        return reference
    definition = definitions[reference["$ref"].rsplit("/", 1)[-1]]
    return {"anyOf": [definition["properties"][field], reference]}


def _with_templates(schema: Any) -> Any:
    """Return the schema with a template allowed wherever it wants a number, true or false, a choice or a list."""
    if not isinstance(schema, dict):
        return schema
    inner = {key: _inner(key, value) for key, value in schema.items()}
    if inner.get("type") not in _TYPED and not _NARROW & set(inner):
        return inner
    about = {key: inner.pop(key) for key in ("title", "description", "default") if key in inner}
    return {**about, "anyOf": [inner, _TEMPLATE]}


def _inner(key: str, value: Any) -> Any:
    if key == "properties":
        return {name: _with_templates(one) for name, one in value.items()}
    if key in {"anyOf", "oneOf", "allOf", "prefixItems"}:
        return [_with_templates(one) for one in value]
    return _with_templates(value) if key in {"items", "additionalProperties"} else value
