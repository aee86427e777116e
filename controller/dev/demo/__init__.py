"""`tally demo`: the problem that Tally exists for, on a real etcd, and Tally beside it.

`backend` has backends as they are written at first, and `replica` runs one as a process. `stage` starts and
directs these processes, and `designs` lets each design run the same course. `promise` lets Tally run it.
`course` is what a run yields, `words` what is said of it in each language, and `table` and `page` show it.
"""
