"""The public names: all there, loaded on first use, documented."""

import doctest
import subprocess
import sys

import diffcse


def test_every_public_name_is_there_and_documented():
    assert set(diffcse.__all__) == set(diffcse._HOMES)
    for name in diffcse.__all__:
        assert getattr(diffcse, name).__doc__, name
    assert diffcse.__version__
    assert set(diffcse.__all__) <= set(dir(diffcse))
    assert not hasattr(diffcse, "nothing")


def test_doctest():
    assert doctest.testmod(diffcse).failed == 0


def test_import_is_light():
    program = "import sys, diffcse; diffcse.load_recipe('mini_cpu'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
