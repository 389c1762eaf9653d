"""Every field of every request has an end: a longest text, a least and a greatest number, a most of items."""

from collections.abc import Iterator
from typing import Any

from tests.backend.api.calls import Api

Document = dict[str, Any]
_NAMED = {"enum", "const"}
_LEAST, _GREATEST = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}


def endless(document: Document, schema: Document, where: str, seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the places of a schema that take something of any length or size."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in seen:
            yield from endless(document, document["components"]["schemas"][name], where, seen | {name})
        return
    if _is_endless(schema):
        yield where
    parts = [(where, one) for kind in ("anyOf", "oneOf", "allOf") for one in schema.get(kind, [])]
    parts += [(f"{where}[]", one) for one in [schema.get("items"), *schema.get("prefixItems", [])]]
    parts += [(f"{where}.{name}", one) for name, one in schema.get("properties", {}).items()]
    parts += [(f"{where}.*", schema.get("additionalProperties"))]
    for place, part in parts:
        if isinstance(part, dict):
            yield from endless(document, part, place, seen)


def _is_endless(schema: Document) -> bool:
    keys, kind = set(schema), schema.get("type")
    if kind == "string":
        return not (keys & {"maxLength", "contentMediaType", *_NAMED}) and schema.get("format") != "binary"
    if kind in ("integer", "number"):
        return not (keys & _NAMED or (keys & _LEAST and keys & _GREATEST))
    return kind == "array" and "maxItems" not in keys


def requested(document: Document) -> Iterator[tuple[str, Document]]:
    """Yield every parameter and body of every operation: (where, schema)."""
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            for parameter in operation.get("parameters", []):
                yield f"{verb} {path} ?{parameter['name']}", parameter["schema"]
            for content in operation.get("requestBody", {}).get("content", {}).values():
                yield f"{verb} {path}", content["schema"]


def test_every_field_of_every_request_is_bounded(api: Api) -> None:
    document = api.client.get("/openapi.json").json()
    asked = list(requested(document))
    assert len(asked) > 200
    assert sorted({place for where, schema in asked for place in endless(document, schema, where)}) == []


def test_an_endless_field_is_found() -> None:
    schema = {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "b": {"type": "array"}}}
    assert set(endless({}, schema, "x")) == {"x.a", "x.b"}
    assert list(endless({}, {"type": "integer", "minimum": 0}, "n")) == ["n"]
    assert list(endless({}, {"type": "integer", "minimum": 0, "maximum": 9}, "n")) == []
