"""Choose the device of the networks, in the process that computes."""

from __future__ import annotations

import torch

from ovsdino.masks.errors import MaskError


def choose_device(name: str | None) -> str:
    """Return the requested device, else a GPU if there is one.

    Raises:
        MaskError: there is no such device.
    """
    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = " ".join(str(error).split())[:120]
        raise MaskError(f"--device {device}: torch cannot use it here ({why}); give cpu") from error
    return device
