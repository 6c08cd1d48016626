"""One epoch of training: its loop and its step, as fast as the machine allows."""
