"""Measurements: what is compared takes turns in one run, and medians are reported."""
