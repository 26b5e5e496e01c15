"""08, 09: measure speed and quality."""
