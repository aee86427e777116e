"""Tally: a task controller. Every unit of resource is held once and released once, whatever fails.

The loop, as one replica runs it (`runtime/replica.py`, `runtime/reconciler.py`):

    follower thread:  for page in store.pages(prefix): inbox.put(page)    # then watch from its revision, for ever
                      inbox.put(changes)
    election thread:  leadership = campaign()                             # once loaded; lease + one transaction; renew; lose
    control loop:     for message in inbox.take():
                          world.apply(message)                            # newer mod revisions only
                      if leadership:                                      # and the model has applied the term's revision
                          plan = planner.plan(now)                        # what changed + what can be admitted
                          result = store.commit(guarded(plan))            # term, statuses, ledgers, requests: all compared
                          if refused:    world.apply(what differs)        # and plan again; a lost term: step down
                          if committed:  for effect in plan.effects:      # persist, then act
                                             actuator.perform(effect)     # only while the term may act
    actuator threads: inbox.put(engine.start(attempt))                    # outcomes come back as messages
    observer threads: inbox.put(engine.list()); inbox.put(engine.watch())

The layers, each knowing only those below it (`.importlinter`, tests/architecture):

    cli, dev            what users call
    app                 the composition root: the only place that knows concrete classes
    client, audit       the library; the invariants against a live cluster
    runtime             threads around the core: inbox, follower, reconciler, actuator, observer, tenure, replica
    election, status    who leads; the read-only endpoint
    store, engine       the seams: etcd or memory; process, null (kubernetes and docker)
    core                pure: values, lifecycle, ledgers, queue, planner, invariants

What can fail, and where that is handled: a stale leader (`store` guards, `election.term`), a lost answer (`store.etcd.commit`), a
lost event (`runtime.follower` reloads, `runtime.observer` lists), an engine that is silent (`core.intake.unavailable`), an end
without proof (`core.decide`), a value that does not parse (`core.world` quarantines it), an error of
our own on one task (`core.compartments` sets it aside, `bulkhead` counts it).
"""

__version__ = "0.1.0"
