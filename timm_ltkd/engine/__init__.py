"""Training and evaluation on Accelerate: processes, devices and precision."""
