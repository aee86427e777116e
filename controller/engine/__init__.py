"""The seam to whatever runs attempts (`base`), and the engines."""
