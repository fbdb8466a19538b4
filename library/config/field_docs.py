"""The doc strings beneath a dataclass's fields, read from its source: Python itself does not keep them."""

from __future__ import annotations

import ast
import inspect
import textwrap


def field_docs(dataclass_type: type) -> dict[str, str]:
    """Field name -> its doc string on one line. Empty where the source is not at hand."""
    try:
        source = textwrap.dedent(inspect.getsource(dataclass_type))
    except (OSError, TypeError):
        return {}
    body = ast.parse(source).body[0]
    if not isinstance(body, ast.ClassDef):
        return {}
    docs = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and _is_text(following):
            docs[statement.target.id] = " ".join(following.value.value.split())  # type: ignore[attr-defined]
    return docs


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
