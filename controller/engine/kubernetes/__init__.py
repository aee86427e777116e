"""The engine that runs attempts as pods."""
