"""Energy of the processor's packages, from the counters that Linux shows of RAPL.

Source: Linux, ``Documentation/power/powercap/powercap.rst``. The counters of all that runs on the machine are
one: figures mean something where nothing else runs. Virtual machines rarely show them, and since Linux 5.10
only the administrator may read them.
"""

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
PACKAGES = "intel-rapl:[0-9]*"  # of AMD's processors as well; parts of a package have a second number


class EnergyMeter:
    """Reads how much energy all packages took since the counters began.

    Args:
        root: where the counters lie.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        folders = [folder for folder in sorted(root.glob(PACKAGES)) if folder.name.count(":") == 1]
        self._files = [folder / "energy_uj" for folder in folders]
        self.readable = bool(self._files) and self.read() is not None

    def read(self) -> float | None:
        """Return the counters' sum [J]; None where one cannot be read."""
        try:
            return sum(int(file.read_text(encoding="ascii")) for file in self._files) / 1e6
        except (OSError, ValueError):
            return None

    def since(self, before: float | None) -> float | None:
        """Return what was taken since a reading [J]; None where a counter cannot be read, or began anew."""
        now = self.read()
        if before is None or now is None or now < before:
            return None
        return now - before
