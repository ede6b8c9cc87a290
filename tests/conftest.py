"""For all tests: no network, one thread, and no time limit on a single generated example (the machine may be busy).

Tiny models gain nothing from a second thread, and beside another process on the same cores lose ten times as much.
"""

import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from hypothesis import settings

from diffcse.machine import tune

settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

tune()  # as training does: else the first test that trains would change the numbers of those after it


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; a machine without it skips the test."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with playwright.sync_playwright() as running:
        try:
            opened = running.chromium.launch(executable_path=path, args=["--no-sandbox", "--enable-unsafe-swiftshader"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {error}")
        yield opened
        opened.close()
