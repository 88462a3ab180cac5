"""What there is to say of a method that no run tells: how long its code is, and when it waits for the device."""

from __future__ import annotations

import ast
import inspect
import io
import sys
import tokenize
from typing import Any

from benchmarks.league.ladders import LADDERS
from bwcache.policies import Policy

SPACE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def facts() -> dict[str, dict[str, Any]]:
    """Return of each family where its ladder is from, the lines of its policy's file, and when decisions wait."""
    return {
        one.family: {"source": one.source, "lines": lines_of(one.kind), "reads": reads(one.kind)} for one in LADDERS
    }


def reads(kind: type[Policy[Any]]) -> str:
    """Return when a policy's decisions wait for the device: in each forward, in computed or checked steps, or never."""
    what = kind.entry.reads if kind.entry else ""
    if vars(kind).get("probes") is True:
        return "each forward"
    if what.startswith("nothing"):
        return "never"
    return "checked steps" if "checked steps" in what else "computed steps"


def lines_of(kind: type[Policy[Any]]) -> int:
    """Return the lines of code in a policy's file, without docstrings, comments and empty ones."""
    return lines_of_code(inspect.getsource(sys.modules[kind.__module__]))


def lines_of_code(text: str) -> int:
    """Return how many lines of a Python text have code on them that is no docstring."""
    said: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            said |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {line for one in tokens if one.type not in SPACE for line in range(one.start[0], one.end[0] + 1)}
    return len(code - said)
