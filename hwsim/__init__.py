"""A cycle-accurate simulator of the accelerator.

Its matrix-vector unit has 4-bit multipliers that compose into 16-bit ones (paper section 5).

The simulator knows shapes and masks, not values, and needs neither PyTorch nor the other packages of
this project.
"""
