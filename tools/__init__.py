"""Programs for working on the project; nothing of them is installed."""
