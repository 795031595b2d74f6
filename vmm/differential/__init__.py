"""Differential testing: random guest programs, run by several engines, whose outcomes must agree."""
