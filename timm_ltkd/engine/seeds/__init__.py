"""Several runs that differ in their seed: at once, or one after another."""
