"""00: fetch a checkpoint."""
