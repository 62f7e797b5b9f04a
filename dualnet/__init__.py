"""Train one network in parts: processes that share nothing but a folder."""

__version__ = "0.1.0"
