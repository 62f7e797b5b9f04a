"""What every test run has: the option --fault-table."""

from fault_table import pytest_addoption, pytest_configure  # noqa: F401
