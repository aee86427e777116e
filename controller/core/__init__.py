"""The pure core: what is so (`model`), what must hold (`promise`), what to do next (`planning`).

It reads no clock, and does no input or output.
"""
