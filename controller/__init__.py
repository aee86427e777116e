"""Tally: a task controller. Every unit of resource is held once and released once, whatever fails.

The loop, as one replica runs it (`runtime/replica.py`, `runtime/reconciler.py`):

    follower thread:  for page in store.pages(prefix): inbox.put(page)  # then watch from there
                      inbox.put(changes)
    election thread:  leadership = campaign()                           # lease + one transaction; renew; lose
    control loop:     for message in inbox.take():
                          model.apply(message)                          # newer mod revisions only
                      if leadership:                                    # and its term's revision was applied
                          plan = planner.plan(now)                      # what changed + what can be admitted
                          pending = store.begin(guarded(plan))          # all that it rests on is compared
                          planner.committed(plan before)                # the model shows it; persist first
                          for effect in effects of the plan before:
                              actuator.perform(effect)                  # only while the term may act
                          planner.plan_ahead(plan)                      # the next, as if this were committed
                          result = pending.result()
                          if refused:    model.apply(what differs)      # plan again; or step down
                          if committed:  plan = planner.go_on(revision) # sent at once, if it was begun
    actuator threads: inbox.put(engine.start(attempt))                  # outcomes come back as messages
    observer threads: inbox.put(engine.attempts()); inbox.put(engine.watch())

The rooms. Each imports only rooms below it (`.importlinter`, tests/architecture):

    cli                              the command `tally`
    dev                              a cluster on one machine: replicas, etcd, a fake Kubernetes; the demo
    app                              the composition root: it chooses the store and the engine
    audit                            the invariants against a live cluster; repairs; the selftest
    client, telemetry, endpoint      the library; logs and metrics; the read-only HTTP endpoint
    runtime                          threads around the core: a replica, its tenure, what feeds them
    election                         who leads, and until when it may act
    store, engine, config            etcd or memory; kubernetes, process, docker or null; settings
    views, terminal                  what readers are shown; the one place that prints
    core/planning                    what the leader does next: decisions, transitions, plans, repairs
    core/promise                     what must hold: invariants, findings, attempts, replay
    core/model                       what is so: values, lifecycle, ledgers, queue
    bulkhead, clock, errors          what every room may use

What can fail, and where it is handled: a stale leader (`store` guards, `election.term`), a lost answer
(`store.etcd.transaction`), a lost event (`runtime.follower` reloads, `runtime.observer` lists), a silent
engine (`core.planning.intake`), an end without proof (`core.planning.decide`), a value that does not parse
(`core.model.model` quarantines it), an error of Tally's own on one task (`core.model.compartments` sets the
task aside, `bulkhead` counts the error).
"""

__version__ = "0.1.0"
