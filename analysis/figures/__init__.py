"""Figures of tracked runs."""
