"""Sweeps of training recipes with Ray Tune."""
