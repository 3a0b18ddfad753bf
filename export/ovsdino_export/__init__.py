"""Export torch models to bundles: rewrite for engines, export to ONNX, compare with torch.

Importing this package imports nothing else.

Example:
    >>> from pathlib import Path
    >>> from ovsdino_export.export import export_bundle
    >>> from ovsdino_export.request import ExportRequest
    >>> bundle = export_bundle(ExportRequest(model="nano", out=Path("bundles")))
"""
