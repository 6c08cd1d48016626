"""Command lines: options, YAML, and the three scripts."""
