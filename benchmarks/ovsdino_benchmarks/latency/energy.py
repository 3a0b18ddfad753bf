"""Measure the energy of the processor's packages with Linux's RAPL counters.

Source: Linux, ``Documentation/power/powercap/powercap.rst``. The counters cover all processes of the machine:
measure while nothing else runs. Virtual machines rarely have them, and since Linux 5.10 only the
administrator can read them.
"""

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
PACKAGES = "intel-rapl:[0-9]*"  # also the name on AMD's processors; parts of a package have a second number


class EnergyMeter:
    """Reads the energy counters of all packages.

    Args:
        root: folder of the counters.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        folders = [folder for folder in sorted(root.glob(PACKAGES)) if folder.name.count(":") == 1]
        self._files = [folder / "energy_uj" for folder in folders]
        self.readable = bool(self._files) and self.read() is not None

    def read(self) -> float | None:
        """Return the counters' sum [J]; None if a counter cannot be read."""
        try:
            return sum(int(file.read_text(encoding="ascii")) for file in self._files) / 1e6
        except (OSError, ValueError):
            return None

    def since(self, before: float | None) -> float | None:
        """Return the energy since a reading [J]; None if a counter is unreadable or wrapped around."""
        now = self.read()
        if before is None or now is None or now < before:
            return None
        return now - before
