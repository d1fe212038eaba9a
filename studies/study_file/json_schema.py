"""The JSON Schema of the study file, as people write it, for editors and other tools."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from oat.own_code import OWN_NAME, Args
from studies.study_file.evaluate_block import PLAIN_ATTACK
from studies.study_file.keys import keys_of, summary
from studies.study_file.study import Study

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ID = "urn:oat-studies:study"
NUMBER = r"^\s*[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][+-]?[\d_]+)?(\s*/\s*\d+(\.\d+)?)?\s*$"
"""A number as text: a fraction, one such as 1_000, or one in quotes."""

WORDS = ("yes", "no", "on", "off", "true", "false", "y", "n", "t", "f")
BOOLEAN = f"^({'|'.join(''.join(f'[{c}{c.upper()}]' for c in word) for word in WORDS)}|[01])$"
"""A truth value as text, which ``yes`` and ``on`` are for YAML 1.2."""
OWN = {
    "method": "A method of your own, `module:Class`; its options are the fields of its class.",
    "attack": "An attack of your own, `module:function`; its options are those of the function.",
}
"""What an entry of a list may name instead of something of ours."""


def schema() -> dict[str, Any]:
    """Return the schema of a study file (JSON Schema, draft 2020-12).

    It knows keys, types, choices and the bounds that the blocks declare; what depends on several
    keys, or on a rule in code, `studies.load_study` alone tells.
    """
    made = Study.model_json_schema(schema_generator=_Generator)
    return {"$schema": DIALECT, "$id": ID, **made, "title": "Study file of oat-studies"}


class _Generator(GenerateJsonSchema):
    """Pydantic's schema, with what the study file may hold beyond JSON's types."""

    def float_schema(self, schema: Any) -> JsonSchemaValue:
        """Take text for a number."""
        return {**super().float_schema(schema), "type": ["number", "string"], "pattern": NUMBER}

    def bool_schema(self, schema: Any) -> JsonSchemaValue:
        """Take the words and numbers that stand for a truth value."""
        kinds = ["boolean", "integer", "string"]
        return {"type": kinds, "minimum": 0, "maximum": 1, "pattern": BOOLEAN}

    def int_schema(self, schema: Any) -> JsonSchemaValue:
        """Take text for a number."""
        return {**super().int_schema(schema), "type": ["integer", "string"], "pattern": NUMBER}

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        """Describe the keys of a pydantic model."""
        return self._described(super().model_schema(schema), schema["cls"])

    def dataclass_schema(self, schema: Any) -> JsonSchemaValue:
        """Describe the keys of a dataclass."""
        return self._described(super().dataclass_schema(schema), schema["cls"])

    def tagged_union_schema(self, schema: Any) -> JsonSchemaValue:
        """Tell the blocks of a list apart by their name, which one of them may lack."""
        made = super().tagged_union_schema(schema)
        tag, blocks = made["discriminator"]["propertyName"], made["discriminator"]["mapping"]
        own = OWN["method" if "oat" in blocks else "attack"]
        return {
            "oneOf": [
                {"$ref": place} | ({} if name == PLAIN_ATTACK else {"required": [tag]})
                for name, place in blocks.items()
            ]
            + [
                {
                    "type": "object",
                    "description": own,
                    "required": [tag],
                    "properties": {tag: {"type": "string", "pattern": OWN_NAME}},
                }
            ]
        }

    def encode_default(self, dft: Any) -> Any:
        """Write a default as JSON has it."""
        return super().encode_default(dict(dft) if isinstance(dft, Args) else dft)

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Give a key no title beside its name."""
        return False

    def _described(self, made: JsonSchemaValue, block: type) -> JsonSchemaValue:
        """Say of a block and of each of its keys what the docstrings say."""
        for key in keys_of(block):
            made["properties"][key.name]["description"] = key.text
        return {**made, "description": summary(block)}
