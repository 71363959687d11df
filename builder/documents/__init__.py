"""YAML with places, and pydantic's errors in words."""
