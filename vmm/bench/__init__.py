"""Benchmarks: programs that report, not timed tests."""
