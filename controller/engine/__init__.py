"""The engines, which run attempts, and their common interface (`base`)."""
