"""Vectors that do not fit into memory are refused before an image is read, with what to do."""

import subprocess
import sys

import pytest

from invmm_gate.core.errors import ConfigError
from invmm_gate.curation.embedding_store import check_memory


def test_a_million_images_at_the_default_metric_do_not_fit_into_16_gb():
    with pytest.raises(ConfigError, match=r"1,000,000 images, compared at 32 x 32 pixels, need 24\.6 GB;") as error:
        check_memory(1_000_000, size=32, width=3072, available=16 * 10**9)
    assert "at most the 16.0 GB of memory that are free" in str(error.value)
    check_memory(1_000_000, size=320, width=512, available=16 * 10**9)


def test_the_limit_of_the_process_counts():
    program = (
        "import resource; from invmm_gate.curation.embedding_store import check_memory;"
        "check_memory(50_000, size=32, width=3072); print('fits');"
        "resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9));"
        "check_memory(50_000, size=32, width=3072)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ConfigError: the vectors of 50,000 images, compared at 32 x 32 pixels, need 1.2 GB" in done.stderr
    assert done.stdout == "fits\n"
