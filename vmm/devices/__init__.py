"""The board: one file per chip, and the bus that joins them."""
