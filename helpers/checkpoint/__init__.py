"""Put a checkpoint onto the disk."""
