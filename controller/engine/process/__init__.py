"""The process engine: runs attempts as processes of this machine, each under its own supervisor."""
