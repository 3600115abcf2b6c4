"""Benchmarks: one question a file; README.md holds the answers with machine, versions, n, median and spread."""
