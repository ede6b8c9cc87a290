"""For all tests: no network, one thread, and no time limit on a single generated example (the machine may be busy).

Tiny models gain nothing from a second thread, and beside another process on the same cores lose ten times as much.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from hypothesis import settings

from diffcse.machine import tune

settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

tune()  # as training does: else the first test that trains would change the numbers of those after it
