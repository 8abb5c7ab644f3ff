"""Whatever pytest runs here, tests and notebooks, checks the book: what a chapter claims of its numbers must hold."""

import os

os.environ["NOPROP_CLAIMS"] = "1"  # see noprop_helpers/lab/claims.py; the kernels of notebooks inherit it
