"""What can go wrong with an analysis."""

from __future__ import annotations

from ovsdino_runtime.base.errors import OvsdinoError


class AnalysisError(OvsdinoError):
    """An analysis that cannot be made: of such photos, encoders, layers or options."""
