"""Tells HTTP receivers about ended tasks: at least once, in order for each task, signed."""
