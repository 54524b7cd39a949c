"""Reads YAML strictly: faults name their line, duplicate keys are faults, 3e-4 is a number.

Plain yaml.safe_load keeps the last of two equal keys in silence, reads `3e-4` as text and `no`
as false; a recipe with either trains something else than its author meant.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """Scalars by the YAML 1.2 core schema: only true/false, null/~, decimal integers and floats."""

    yaml_implicit_resolvers: dict = {}


_NULL, _BOOL = "tag:yaml.org,2002:null", "tag:yaml.org,2002:bool"
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_Loader.add_implicit_resolver(_NULL, re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$"),
    list("-+.0123456789"),
)
_NUMBERS: dict[str, Callable[[str], float]] = {
    _INT: int,
    _FLOAT: lambda text: float(text.replace(".inf", "inf").replace(".nan", "nan")),
}


@dataclass
class Document:
    """A YAML document: its value, the line of every key and item, and what is wrong with it.

    `a: {b: 1}` on line 3 gives value {"a": {"b": 1}}, lines {("a",): 3, ("a", "b"): 3}.
    """

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def read_yaml(text: str) -> Document:
    """The document in `text`; never raises on its content."""
    document = Document()
    try:
        node = yaml.compose(text, _Loader)
        if node is not None:
            document.value = _Builder(document).value(node, (), frozenset())
    except yaml.YAMLError as error:
        document.faults.append(_syntax_fault(error))
    except RecursionError:
        document.faults.append("lists or mappings are nested too deeply")
    return document


def read_scalar(text: str) -> Any:
    """The value of one override such as `0.5`, `true`, `[a, b]` or `null`; ValueError says what is wrong."""
    document = read_yaml(text)
    if document.faults:
        raise ValueError("; ".join(document.faults))
    return document.value


def _syntax_fault(error: yaml.YAMLError) -> str:
    """`line 4, column 7: mapping values are not allowed here`"""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


class _Builder:
    """Turns nodes into values, remembering lines and refusing what YAML would let pass."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def value(self, node: yaml.Node, path: Path, above: frozenset[int]) -> Any:
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in above:  # an alias to something that holds it would never end
            return self._fault(node, "an alias may not point to what contains it")
        above = above | {id(node)}
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, above)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index), above) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path, above: frozenset[int]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else ""
            place = (*path, key)
            if not key:
                self._fault(key_node, "a key must be plain text")
            elif key in found:
                first = self.document.lines[place]
                self._fault(key_node, f"duplicate key {key!r}, first given on line {first}")
            else:
                self.document.lines[place] = key_node.start_mark.line + 1
                found[key] = self.value(value_node, place, above)
        return found

    def _scalar(self, node: yaml.Node) -> Any:
        if node.tag == _NULL:
            return None
        if node.tag == _BOOL:
            return node.value.lower() == "true"
        if node.tag in (_INT, _FLOAT):
            try:
                return _NUMBERS[node.tag](node.value)
            except ValueError:  # tagged as a number, or of more digits than an int may have
                return self._fault(node, f"{node.value[:40]!r} is no number")
        if node.tag != "tag:yaml.org,2002:str":
            return self._fault(node, f"tag {node.tag} is not supported")
        return node.value

    def _fault(self, node: yaml.Node, message: str) -> None:
        self.document.faults.append(f"line {node.start_mark.line + 1}: {message}")
