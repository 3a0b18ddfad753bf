"""Bad input by the thousand: ``python -m tests.fuzz --cases 5000 --seed 1``."""
