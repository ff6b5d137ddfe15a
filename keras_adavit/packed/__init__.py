"""Packed execution: what a policy skips is not computed."""
