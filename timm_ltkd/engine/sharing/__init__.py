"""Finished networks for others: model cards, the hub, folders that tell nothing of the machine, ONNX files."""
