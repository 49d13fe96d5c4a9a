"""Measurements of speed, each a program: `python -m benchmarks.<name>`.

All of them time their cases interleaved in one run and report ratios with their spread, because
absolute seconds on a shared machine say little.
"""
