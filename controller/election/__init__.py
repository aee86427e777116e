"""The election of a leader.

A replica campaigns with a lease and one transaction. The create revision of the leader key is its term.

The trust window: a leader acts only until the time at which its last confirmed keep-alive was sent, plus the
lease's time to live, less a margin, by its own boottime clock (`term`). The `elector` campaigns, keeps the
lease and lets it go. `session` has the threads that drive the elector and register the replica. The
`sentinel` checks whether the leader's process still answers, so that a dead leader is replaced before its
lease ends.
"""
