"""Every array that Caffe wrote, at the tolerance of float32 rounding.

DUALNET_CAFFE_GOLDEN=DIR runs another set in the format of golden/caffe/README.md.
"""

import os
from pathlib import Path

import pytest

from dualnet.reproduce import fidelity

GOLDEN = Path(os.environ.get("DUALNET_CAFFE_GOLDEN")
              or Path(__file__).parent / "golden" / "caffe")
CASES = fidelity.list_cases(GOLDEN)


@pytest.mark.parametrize(("file", "case"), CASES, ids=["-".join(filter(None, c)) for c in CASES])
def test_agrees_with_caffe(file, case):
    result = fidelity.compare_case(GOLDEN, file, case)
    too_far = [d for d in result.differences if not d.passed]
    assert not too_far, f"{too_far}, ignoring the fields {result.ignored}"
