"""Training and evaluation on Accelerate: processes, devices and precision.

What functions here are given by these names is the same in all of them, and told once: `args`, the options of the run;
`accelerator`, its device, precision and processes; `data`, its splits and class prior; `prior`, the class prior of the
training set; `input_config`, how images are made; `channels_last`, the memory layout of inputs.
"""
