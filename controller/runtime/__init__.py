"""The threads of one replica around the core: what comes in, what is decided and persisted, and what is
then done.
"""
