"""What the ledgers are published as: figures, reports and one page, written and verified."""
