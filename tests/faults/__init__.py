"""Faults and bad input: each gets a sentence, damages nothing, and the next run works.  See docs/faults.md."""
