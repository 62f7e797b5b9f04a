"""What every test run has: the option --fault-table.

Here and not in tests/, because pytest takes the path behind an option that it does not know yet for
a test, if that path exists, and then looks for no other conftest.py than those above it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "tests"))

from fault_table import pytest_addoption, pytest_configure  # noqa: F401
