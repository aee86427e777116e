"""Pure: what is so (`model`), what must hold (`promise`), what is to be done (`planning`).

No clock, no input or output.
"""
