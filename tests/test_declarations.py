"""What the compiled hot path declares is what its classes have: else only a compiled run fails."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What has a twin is compiled from that, and not from the module; what declares an interface of C
# alone has no module.
DECLARED = sorted(
    path
    for path in (ROOT / "pocketkv").rglob("*.pxd")
    if path.with_suffix(".py").exists() and not path.with_suffix(".pyx").exists()
)
CLASS = re.compile(r"^cdef class (\w+)")
ATTRIBUTES = re.compile(r"^    cdef (?:(?:public|readonly|unsigned) )*([^()]+)$")


def declared_attributes(text: str) -> dict[str, set[str]]:
    """The attributes of each class of a .pxd file."""
    found: dict[str, set[str]] = {}
    name = ""
    for line in text.splitlines():
        if started := CLASS.match(line):
            name = started.group(1)
            found[name] = set()
        elif name and (attributes := ATTRIBUTES.match(line)):
            # The type stands before the first name.
            found[name] |= {part.split()[-1] for part in attributes.group(1).split(",")}
    return found


def slots(tree: ast.Module) -> dict[str, set[str]]:
    """The slots of each class of a module."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                if isinstance(statement, ast.Assign) and [
                    target.id for target in statement.targets if isinstance(target, ast.Name)
                ] == ["__slots__"]:
                    value = ast.literal_eval(statement.value)
                    found[node.name] = {value} if isinstance(value, str) else set(value)
    return found


@pytest.mark.parametrize("path", DECLARED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_slot_of_a_compiled_class_is_declared(path: Path) -> None:
    source = path.with_suffix(".py")
    of_classes = slots(ast.parse(source.read_text(encoding="utf-8")))
    for name, attributes in declared_attributes(path.read_text(encoding="utf-8")).items():
        missing = of_classes.get(name, set()) - attributes - {"__weakref__", "__dict__"}
        assert not missing, f"{name} has {sorted(missing)}, which {path.name} does not declare"


def test_the_check_can_fail() -> None:
    declared = declared_attributes(
        "cdef class A(B):\n    cdef public long long _a, b\n    cdef f(self)\n"
    )
    assert declared == {"A": {"_a", "b"}}
    assert slots(ast.parse("class A:\n    __slots__ = ('_a', 'c')")) == {"A": {"_a", "c"}}
