"""Command lines: options, YAML, and the five scripts."""
