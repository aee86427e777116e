"""What readers are shown: projections of the model. They change nothing and ask nobody.

`tasks`, `pools` and `replicas` hold the facts that the command line, the client, the endpoint and the metrics
have in common; each reader gives them its own shape and words, and asks the model for none of them itself
(tests/architecture/test_one_read_side.py). `overview` is of the whole, `explain` is a sentence on one task.
`freshness` says what an age means, `selector` which labels match, `step` what a step of a task looks like,
`replica` what the endpoint needs of the replica that it belongs to.
"""
