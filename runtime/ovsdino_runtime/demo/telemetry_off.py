"""Environment of the page's libraries, which they read when imported: temporary folder, no telemetry."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ovsdino_runtime.base.scratch import scratch_folder

SILENT = {  # who would otherwise report to their makers
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}


@contextmanager
def private_files() -> Iterator[str]:
    """Keep uploads in a temporary folder that is deleted afterwards, and switch telemetry off."""
    with scratch_folder("demo") as folder:
        settings = {**SILENT, "GRADIO_TEMP_DIR": str(folder)}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield str(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
