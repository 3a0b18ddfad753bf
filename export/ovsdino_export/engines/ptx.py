"""PTX as text: the entry and its parameters, the target, and Triton's hidden parameters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ovsdino_runtime.base.errors import OvsdinoError

ENTRY = re.compile(r"\.visible \.entry (?P<name>[\w$]+)\((?P<parameters>[^)]*)\)")
DIRECTIVE = r"^\.{}[ \t]+(\S+)"
POINTER = ".param .u64 "


@dataclass(frozen=True)
class Ptx:
    """What a file of PTX says of itself."""

    entry: str  # the function
    parameters: tuple[str, ...]  # their declarations
    target: str  # such as sm_89, or sm_90a
    version: str  # of PTX


def describe_ptx(ptx: str) -> Ptx:
    """Read the head of a file with one entry.

    Raises:
        OvsdinoError: it has none, or several.
    """
    entries = list(ENTRY.finditer(ptx))
    if len(entries) != 1:
        raise OvsdinoError(f"PTX with {len(entries)} entries, expected 1")
    parameters = tuple(part.strip() for part in entries[0]["parameters"].split(",") if part.strip())
    target, version = (_directive(ptx, name) for name in ("target", "version"))
    return Ptx(entries[0]["name"], parameters, target, version)


def strip_hidden_params(ptx: str, declared: int) -> str:
    """Cut off the parameters that Triton adds at the end, so that the entry takes the declared ones alone.

    They point to scratch memory (Triton 3.3 and later: one, 3.5 and later: two). TensorRT passes what was
    declared and fails on the count. A kernel without scratch memory never reads them.

    Args:
        ptx: of a kernel whose scratch sizes are 0.
        declared: how many parameters it has in Python, constants not counted.

    Raises:
        OvsdinoError: there are fewer, or one at the end is no pointer or is read.
    """
    described = describe_ptx(ptx)
    if len(described.parameters) < declared:
        raise OvsdinoError(
            f"{described.entry}: {len(described.parameters)} parameters, expected at least {declared}"
        )
    for hidden in described.parameters[declared:]:
        name = hidden.split()[-1]
        if not hidden.startswith(POINTER) or len(re.findall(rf"\b{re.escape(name)}\b", ptx)) > 1:
            raise OvsdinoError(
                f"{described.entry}: hidden parameter {hidden!r} is in use; it cannot be cut off"
            )
    match = ENTRY.search(ptx)
    assert match is not None
    kept = ",\n".join(f"\t{parameter}" for parameter in described.parameters[:declared])
    start, end = match.span("parameters")
    return f"{ptx[:start]}\n{kept}\n{ptx[end:]}"


def _directive(ptx: str, name: str) -> str:
    match = re.search(DIRECTIVE.format(name), ptx, re.MULTILINE)
    if match is None:
        raise OvsdinoError(f"PTX without .{name}")
    return match[1].rstrip(",")
