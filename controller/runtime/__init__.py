"""The threads of one replica around the core: they take in messages, decide, persist, and then act."""
