"""For all tests: pytest runs several processes, so each computes in one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
