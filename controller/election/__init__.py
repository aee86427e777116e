"""Who leads.

A replica campaigns with a lease and one transaction; the create revision of the leader key is its term.

The trust window: a leader acts only until its lease's last confirmed renewal was sent plus the lease's time
to live, less a margin, by its own boottime clock (`term`). The `elector` holds the term, the `session` the
lease, and the `sentinel` looks whether the leader's process still answers, so that a dead leader is replaced
before its lease ends.
"""
