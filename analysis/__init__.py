"""Tables, figures and the report: everything here is made from tracked runs."""

from analysis.columns import describe_columns
from analysis.runs import load_runs

__all__ = ["describe_columns", "load_runs"]
