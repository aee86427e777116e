"""`tally demo`: the problem that Tally exists for, on a real etcd, and Tally beside it.

`backend` has backends as they are written at first, and `replica` runs one of them as a process. `replicas`
starts these processes and directs them by `orders`. `designs` lets each design run the same course, and
`promise` lets Tally run it. `course` and `result` are what that yields, and `words` what is said of it in
each language. `table` and `page` show it, and `run` is the command.
"""
