"""The catalog of all metrics. The code and the reference in `deploy/metrics.md` are made from it.

Units are base units (seconds, bytes, cores). Names of tasks, attempts and users are never labels, so the
number of series is bounded by pools, resources, states and fixed sets of words. All metrics have the label
`replica_role`: what is counted carries the replica's role at the time of the event, what is measured its role
now. All replicas have the same model: select `replica_role="leader"` to sum without counting twice.
"""

from __future__ import annotations

from controller.telemetry.family import WAITS, Family, MetricType
from controller.telemetry.forecast_families import FORECASTS

ROLE = "replica_role"

_OWNER = ("pool", "owner")
_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


FAMILIES: tuple[Family, ...] = (
    # -- who this is
    Family("tally_build", MetricType.INFO, "The version of Tally.", ("version",)),
    Family("tally_replica", MetricType.INFO, "This replica.", ("replica", "cluster", "engine")),
    Family("tally_phase", MetricType.GAUGE, "1 for the phase that the replica is in.", ("phase",)),
    # -- leadership
    Family("tally_leading", MetricType.GAUGE, "1 while this replica leads."),
    Family(
        "tally_candidate",
        MetricType.GAUGE,
        "1 while this replica may lead; 0 if its engine is not the recorded one, or its clock differs.",
    ),
    Family("tally_leader_known", MetricType.GAUGE, "1 while this replica knows of a leader."),
    Family(
        "tally_term", MetricType.GAUGE, "The leader key's create revision while this replica leads, else 0."
    ),
    Family("tally_epoch", MetricType.GAUGE, "The number of elections so far."),
    Family(
        "tally_lease_remaining_seconds",
        MetricType.GAUGE,
        "Time for which this leader may still start effects; 0 on followers.",
    ),
    Family(
        "tally_take_over_seconds",
        MetricType.HISTOGRAM,
        "Time from the election until the leader acts: its model is at the term, the engine was listed.",
        (),
        _LATENCY,
    ),
    # -- the model
    Family("tally_revision", MetricType.GAUGE, "The revision of etcd that the model has applied."),
    Family(
        "tally_staleness_seconds",
        MetricType.GAUGE,
        "Time since the last answer of etcd; the model may be that old.",
    ),
    Family(
        "tally_replica_lag_revisions",
        MetricType.GAUGE,
        "Revisions that a replica had yet to apply at its last heartbeat.",
        ("replica",),
    ),
    Family(
        "tally_replica_age_seconds",
        MetricType.GAUGE,
        "Time since the last heartbeat of a registered replica, by this replica's clock.",
        ("replica",),
    ),
    Family(
        "tally_model_reloads",
        MetricType.COUNTER,
        "Full reloads of the model after a gap in the watch, by cause.",
        ("cause",),
    ),
    Family(
        "tally_quarantined_records",
        MetricType.GAUGE,
        "Records in quarantine, by kind: values that do not parse, unknown keys (unknown), and tasks on which"
        " Tally's own code failed (quarantined).",
        ("kind",),
    ),
    Family(
        "tally_attestations", MetricType.GAUGE, "Tasks of which a gateway attests who has submitted them."
    ),
    Family("tally_schedules", MetricType.GAUGE, "Schedules, by whether they are suspended.", ("suspended",)),
    Family(
        "tally_schedule_ticks",
        MetricType.COUNTER,
        "Ticks of schedules that this leader has decided, by what became of them.",
        ("outcome",),
    ),
    Family(
        "tally_gateways",
        MetricType.GAUGE,
        "Gateways that are registered, by whether they are ready.",
        ("ready",),
    ),
    Family(
        "tally_notices_waiting",
        MetricType.GAUGE,
        "Notices about ended tasks that receivers have yet to be told. Beyond 10,000, no more are kept.",
    ),
    Family(
        "tally_notices_dead", MetricType.GAUGE, "Notices that were given up, and are kept as dead letters."
    ),
    Family(
        "tally_notices_unkept",
        MetricType.COUNTER,
        "Ends of tasks that nobody will be told about: the outbox was full, or their pool could not be read.",
    ),
    Family(
        "tally_errors",
        MetricType.COUNTER,
        "Unexpected errors that were contained, by the place where they were caught and the error's class."
        " Each is a bug in Tally, and is logged; `keep-log` also counts logs that could not be kept for"
        " other reasons.",
        ("where", "error"),
    ),
    *FORECASTS,
    # -- tasks
    Family(
        "tally_tasks",
        MetricType.GAUGE,
        'Tasks by pool and state; pools that are not defined are "Other". An array is one task.',
        ("pool", "state"),
    ),
    Family(
        "tally_array_members",
        MetricType.GAUGE,
        "Members of arrays by pool and state: those to begin are Waiting; of the others, also those that have"
        " ended, until their array is removed.",
        ("pool", "state"),
    ),
    Family(
        "tally_tasks_lost",
        MetricType.GAUGE,
        "Tasks whose attempt is lost: it may have ended, without proof. They keep their hold.",
        ("pool",),
    ),
    Family(
        "tally_tasks_on_hold",
        MetricType.GAUGE,
        "Waiting tasks that users keep from being admitted, until they are released.",
        ("pool",),
    ),
    Family(
        "tally_tasks_gated",
        MetricType.GAUGE,
        "Waiting tasks that wait for other tasks to end. They are not in the queue.",
        ("pool",),
    ),
    Family(
        "tally_transitions",
        MetricType.COUNTER,
        'Transitions committed by this replica as leader. Reasons outside the known set are "Other".',
        ("from", "to", "pool", "reason"),
    ),
    Family(
        "tally_queue_wait_seconds",
        MetricType.HISTOGRAM,
        "Time from the submission, or the end of a back-off, to the admission.",
        ("pool",),
        WAITS,
    ),
    Family(
        "tally_start_seconds",
        MetricType.HISTOGRAM,
        "Time from the admission until the attempt was observed running.",
        ("pool",),
        WAITS,
    ),
    Family(
        "tally_run_seconds",
        MetricType.HISTOGRAM,
        "Time from running to the observed end, by the state that followed.",
        ("pool", "state"),
        WAITS,
    ),
    # -- pools
    Family(
        "tally_pool_capacity",
        MetricType.GAUGE,
        "The capacity of a pool, in cores, bytes or counts.",
        ("pool", "resource"),
    ),
    Family(
        "tally_pool_held",
        MetricType.GAUGE,
        "The amount that a pool's ledger says is held, in cores, bytes or counts.",
        ("pool", "resource"),
    ),
    Family(
        "tally_pool_free",
        MetricType.GAUGE,
        "The capacity minus what is held; below 0 when overcommitted.",
        ("pool", "resource"),
    ),
    Family(
        "tally_pool_demand",
        MetricType.GAUGE,
        "What waits in a pool and would be admitted at once if its capacity had no bounds, in cores, bytes or"
        " counts: of tasks, gangs and members of arrays that are not on hold, in back-off or waiting for"
        " others, up to their owner's limits. 0 while the pool is paused.",
        ("pool", "resource"),
    ),
    Family(
        "tally_pool_drift",
        MetricType.GAUGE,
        "The ledger minus the sum of all holds. A value other than 0 breaks invariant I1, unless a record"
        " cannot be read.",
        ("pool", "resource"),
    ),
    Family(
        "tally_pool_admissible",
        MetricType.GAUGE,
        "1 if the task, or the member of an array, that fits and is next is the same as in the scrape before."
        " If this lasts for more than a moment, the queue is stuck.",
        ("pool",),
    ),
    Family("tally_pool_paused", MetricType.GAUGE, "1 while a pool is paused by its definition.", ("pool",)),
    Family(
        "tally_pool_maintenance",
        MetricType.GAUGE,
        "1 within a maintenance window of a pool, and 0 before one; absent if none is set.",
        ("pool",),
    ),
    Family(
        "tally_tasks_kept_back",
        MetricType.GAUGE,
        "Tasks in the queue of a pool that its maintenance windows keep back; absent if none is set.",
        ("pool",),
    ),
    # -- owners of pools with sharing
    Family(
        "tally_owner_held",
        MetricType.GAUGE,
        "The amount that an owner holds of a pool with `sharing`, in cores, bytes or counts. Owners that the"
        ' pool does not name, and all beyond the first 50, are "Other".',
        (*_OWNER, "resource"),
    ),
    Family(
        "tally_owner_guarantee",
        MetricType.GAUGE,
        "The amount of a pool that is guaranteed to an owner, in cores, bytes or counts.",
        (*_OWNER, "resource"),
    ),
    Family(
        "tally_owner_limit",
        MetricType.GAUGE,
        "The most that an owner may hold of a pool, in cores, bytes or counts.",
        (*_OWNER, "resource"),
    ),
    Family(
        "tally_owner_used",
        MetricType.COUNTER,
        "What an owner has used of a pool: cores, bytes or counts, times seconds.",
        (*_OWNER, "resource"),
    ),
    *(
        Family(
            f"tally_owner_{part}",
            MetricType.COUNTER,
            f"Of an owner's use, what attempts held while {words}: cores, bytes or counts, times seconds.",
            (*_OWNER, "resource"),
        )
        for part, words in (("lost", "lost"), ("stopping", "being stopped"))
    ),
    Family(
        "tally_owner_share",
        MetricType.GAUGE,
        'The dominant share of an owner, by which owners are served; the largest of all, for "Other".',
        _OWNER,
    ),
    Family("tally_owner_running", MetricType.GAUGE, "The Pending and Running tasks of an owner.", _OWNER),
    Family("tally_owner_waiting", MetricType.GAUGE, "The tasks of an owner in the queue.", _OWNER),
    Family(
        "tally_owner_below_guarantee",
        MetricType.GAUGE,
        "1 while the first waiting task of an owner fits into what is left of its guarantee, and is not"
        " admitted.",
        _OWNER,
    ),
    Family("tally_pool_claims", MetricType.GAUGE, "Tasks for which attempts are being stopped.", ("pool",)),
    Family(
        "tally_pool_preemptions_per_minute",
        MetricType.GAUGE,
        "The most attempts that may be stopped for other tasks in a minute; absent without `preemption`.",
        ("pool",),
    ),
    # -- etcd
    Family(
        "tally_transaction_seconds",
        MetricType.HISTOGRAM,
        "Duration of guarded transactions by kind (plan, election, registration) and outcome: applied;"
        " recovered (applied, after a lost answer); conflict; ambiguous (the outcome was not known at the"
        " deadline); full, too_large, denied, lease_missing, cluster_changed, unavailable, error.",
        ("kind", "outcome"),
        _LATENCY,
    ),
    Family(
        "tally_transaction_operations",
        MetricType.HISTOGRAM,
        "The operations of a transaction, as etcd counts them.",
        ("kind",),
        (2, 4, 8, 16, 32, 64, 128),
    ),
    Family(
        "tally_transaction_bytes",
        MetricType.HISTOGRAM,
        "The size of the keys and values of a transaction.",
        ("kind",),
        (1024, 4096, 16384, 65536, 262144, 1048576),
    ),
    Family(
        "tally_store_request_seconds",
        MetricType.HISTOGRAM,
        "Duration of other calls to etcd: get, load, grant, keep_alive, revoke.",
        ("verb", "outcome"),
        _LATENCY,
    ),
    Family(
        "tally_store_watch_restarts",
        MetricType.COUNTER,
        "Restarts of the watch's connection, by cause.",
        ("cause",),
    ),
    Family(
        "tally_store_endpoint_failures",
        MetricType.COUNTER,
        "Requests that an endpoint did not answer.",
        ("endpoint",),
    ),
    Family(
        "tally_store_size_bytes",
        MetricType.GAUGE,
        "The size of etcd's database file, from the endpoint that was asked last; absent until known.",
    ),
    Family(
        "tally_store_size_in_use_bytes",
        MetricType.GAUGE,
        "The part of the database file that is in use; defragmentation frees the rest.",
    ),
    Family(
        "tally_store_quota_bytes",
        MetricType.GAUGE,
        "The quota of etcd's database file; absent if etcd does not report it (before 3.6).",
    ),
    # -- the engine
    Family(
        "tally_engine_request_seconds",
        MetricType.HISTOGRAM,
        "Duration of calls to the engine (start, stop, settle, forget, list) by outcome: ok; refused;"
        " refused_transient; unavailable; lost_leadership (confirmed too late); error.",
        ("verb", "code"),
        _LATENCY,
    ),
    Family(
        "tally_engine_silence_seconds",
        MetricType.GAUGE,
        "Time since the engine's last answer to this leader, or its election if later; absent on followers.",
    ),
    Family(
        "tally_engine_watch_restarts",
        MetricType.COUNTER,
        "Unrequested ends of the engine's watch.",
        ("cause",),
    ),
    Family(
        "tally_engine_faults",
        MetricType.COUNTER,
        "Failed calls to the engine's server, by the engine's own codes: HTTP codes, timeout, …",
        ("code",),
    ),
    Family(
        "tally_engine_rate_limit_wait_seconds",
        MetricType.COUNTER,
        "Time for which calls to the engine waited under Tally's own rate limit.",
    ),
    # -- the audit
    Family(
        "tally_audit_findings",
        MetricType.GAUGE,
        "Findings of the last audit of this replica; absent after half an hour.",
        ("invariant", "severity"),
    ),
    Family(
        "tally_audit_age_seconds",
        MetricType.GAUGE,
        "Time since this replica's last audit; absent before the first.",
    ),
    Family(
        "tally_audit_timestamp_seconds",
        MetricType.GAUGE,
        "The time of this replica's last audit, in seconds since the Unix epoch; absent before the first.",
    ),
)

BY_NAME = {family.name: family for family in FAMILIES}
