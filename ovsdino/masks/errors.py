"""Errors of pseudo-masks."""

from ovsdino_runtime.base.errors import OvsdinoError


class MaskError(OvsdinoError):
    """A folder of pseudo-masks is missing, incomplete, damaged, or was made with other options."""
