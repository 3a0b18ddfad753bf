"""Read PTX: entry function, parameters and target; remove Triton's hidden parameters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ovsdino_runtime.base.errors import OvsdinoError

ENTRY = re.compile(r"\.visible \.entry (?P<name>[\w$]+)\((?P<parameters>[^)]*)\)")
DIRECTIVE = r"^\.{}[ \t]+(\S+)"
POINTER = ".param .u64 "


@dataclass(frozen=True)
class Ptx:
    """Entry function, target and version of a PTX file."""

    entry: str  # the function
    parameters: tuple[str, ...]  # their declarations
    target: str  # such as sm_89, or sm_90a
    version: str  # of PTX


def describe_ptx(ptx: str) -> Ptx:
    """Describe PTX with exactly one entry function.

    Raises:
        OvsdinoError: it has no or several entry functions.
    """
    entries = list(ENTRY.finditer(ptx))
    if len(entries) != 1:
        raise OvsdinoError(f"PTX with {len(entries)} entries, expected 1")
    parameters = tuple(part.strip() for part in entries[0]["parameters"].split(",") if part.strip())
    target, version = (_directive(ptx, name) for name in ("target", "version"))
    return Ptx(entry=entries[0]["name"], parameters=parameters, target=target, version=version)


def strip_hidden_params(ptx: str, declared: int) -> str:
    """Remove the parameters that Triton appends, so that the entry takes only the declared ones.

    They point to scratch memory (one since Triton 3.3, two since 3.5). TensorRT passes the declared arguments
    and would fail on their number. A kernel without scratch memory never reads them.

    Args:
        ptx: PTX of a kernel whose scratch sizes are 0.
        declared: number of its parameters in Python, without constants.

    Raises:
        OvsdinoError: there are fewer parameters, or an appended one is not a pointer or is read.
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
