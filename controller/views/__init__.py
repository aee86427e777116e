"""Projections of the model for readers. They change nothing, and call nothing outside.

`tasks`, `pools` and `replicas` hold the facts that the command line, the client, the endpoint and the metrics
share. Each reader gives them its own shape and words, and takes none of them from the model itself
(tests/architecture/test_one_read_side.py). `overview` summarizes the whole, and `explain` writes a sentence
on one task. `freshness` says what an age means, `selector` which labels match, `step` how a step of a task is
shown, and `replica` what the endpoint needs of its replica.
"""
