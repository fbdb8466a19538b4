"""The doc strings beneath a dataclass's fields, read from its source: Python itself does not keep them."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path


def field_docs(dataclass_type: type) -> dict[str, str]:
    """Field name -> its doc string on one line. Empty where the source is not at hand."""
    try:
        file = inspect.getsourcefile(dataclass_type)
    except TypeError:
        file = None
    return dict(_docs_in_file(file).get(dataclass_type.__name__, {})) if file else {}


@cache
def _docs_in_file(file: str) -> dict[str, dict[str, str]]:
    """Class name -> field name -> doc string, of every class in a source file."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except OSError:
        return {}
    return {node.name: _docs_in_class(node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _docs_in_class(node: ast.ClassDef) -> dict[str, str]:
    docs = {}
    for statement, following in zip(node.body, node.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = _text(following)
            if text is not None:
                docs[statement.target.id] = " ".join(text.split())
    return docs


def _text(statement: ast.stmt) -> str | None:
    """The string of a statement that is nothing else."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return statement.value.value if isinstance(statement.value.value, str) else None
    return None
