"""The engine that runs attempts as processes of this machine, each under a supervisor of its own."""
