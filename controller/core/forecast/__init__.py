"""What is to come: the planner that admits, run ahead in virtual time."""
