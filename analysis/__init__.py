"""Tables, figures and the report: everything here is made from tracked runs."""

from analysis.runs import load_runs

__all__ = ["load_runs"]
