"""The processes of a run: how they start, agree and end, and the memory each keeps."""
