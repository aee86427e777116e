"""The engine that runs attempts as containers of one Docker daemon."""
