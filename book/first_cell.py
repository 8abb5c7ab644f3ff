# @title On Colab: fetch the book. Anywhere else: see that its package is here
import importlib.util
import os
import subprocess
import sys

BOOK, VERSION = "https://github.com/noprop-book/noprop-book", "main"
if "google.colab" in sys.modules:
    home = "/content/noprop-book"
    if not os.path.isdir(f"{home}/book"):
        os.makedirs(home, exist_ok=True)
        for words in ("init", f"fetch --depth 1 {BOOK} {VERSION}", "checkout FETCH_HEAD"):
            subprocess.run(["git", *words.split(), "--quiet"], cwd=home, check=True)
    os.chdir(f"{home}/book")
    if home not in sys.path:
        sys.path.insert(0, home)
if importlib.util.find_spec("noprop_helpers") is None:
    raise ModuleNotFoundError(
        "this notebook needs the book's package, noprop_helpers: "
        f"git clone {BOOK}, git -C noprop-book checkout {VERSION}, "
        "then pip install -e ./noprop-book"
    )
