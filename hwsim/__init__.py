"""A cycle-accurate simulator of the accelerator: a matrix-vector unit whose 4-bit multipliers compose into 16-bit ones.

It knows shapes and masks, not values, and needs neither PyTorch nor the other packages of this project.
"""
