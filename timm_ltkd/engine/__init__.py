"""Training and evaluation on Accelerate: the only room that knows processes, devices and precision."""
