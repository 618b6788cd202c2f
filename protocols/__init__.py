"""Evaluation protocols, one TOML each."""
