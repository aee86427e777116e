"""Values, the lifecycle, ledgers and the queue: what is recorded, decoded and checked, as one replica
knows it.
"""
