"""Errors of the analyses."""

from __future__ import annotations

from ovsdino_runtime.base.errors import OvsdinoError


class AnalysisError(OvsdinoError):
    """The analysis is not possible with these photos, encoders, layers or options."""
