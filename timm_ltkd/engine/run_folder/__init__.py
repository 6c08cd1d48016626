"""The folder of a run: who may write there, checkpoints, and what a finished run leaves."""
