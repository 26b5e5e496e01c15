"""Faults and bad input: each gets a message, damages nothing, and the next run works.  See docs/faults.md."""
