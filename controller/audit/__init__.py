"""The promise checked against a live cluster: `audit`, a replica's `own` one, `repairs`, the `selftest`,
`adoption`.
"""
