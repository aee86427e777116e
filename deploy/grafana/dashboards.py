"""Writes the Grafana dashboards beside it: `python deploy/grafana/dashboards.py`.

A test holds the two together.

Each panel has a title, what it shows and how to read it, a unit, and its queries. Variables: the data source,
the job (one per installation of Tally) and, where it makes sense, pools and replicas.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

Panel = dict[str, Any]
FOLDER = Path(__file__).parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
RATE = "$__rate_interval"
LEADER = 'job="$job", replica_role="leader"'
JOB = 'job="$job"'
POOL = f'{LEADER}, pool=~"$pool"'
REPLICA = f'{JOB}, instance=~"$instance"'


class Query(NamedTuple):
    """PromQL, and how each series is called."""

    expr: str
    legend: str = ""


def panel(
    kind: str,
    title: str,
    about: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    height: int = 8,
    **defaults: Any,
) -> Panel:
    """One panel; `defaults` are those of its fields: thresholds, mappings, min, custom."""
    options: dict[str, Any] = {}
    if kind == "timeseries":
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    elif kind in ("stat", "bargauge"):
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "orientation": "auto"}
    # A table is of now, one row a series; what it does not need of each is hidden below.
    form = {"format": "table", "instant": True} if kind == "table" else {}
    hidden = {"excludeByName": {"Time": True, "Value": True}}
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": DATASOURCE,
        "gridPos": {"w": width, "h": height},
        "fieldConfig": {"defaults": {"unit": unit, **defaults}, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                **form,
            }
            for number, query in enumerate(queries)
        ],
        **({"transformations": [{"id": "organize", "options": hidden}]} if kind == "table" else {}),
    }


def thresholds(*steps: tuple[float | None, str]) -> dict[str, Any]:
    """Colours from values on; the first step's value is None."""
    return {"mode": "absolute", "steps": [{"value": value, "color": colour} for value, colour in steps]}


GOOD_AT_ZERO = thresholds((None, "green"), (0.000001, "red"))
STACKED = {"stacking": {"mode": "normal"}, "fillOpacity": 20}


def quantiles(metric: str, selector: str, *by: str) -> tuple[Query, ...]:
    """Half, 95 and 99 of a hundred stay below these."""
    labels = "".join(f" {{{{{label}}}}}" for label in by)
    return tuple(
        Query(
            f"histogram_quantile({share}, sum by ({', '.join(('le', *by))})"
            f" (rate({metric}_bucket{{{selector}}}[{RATE}])))",
            f"p{int(share * 100)}{labels}",
        )
        for share in (0.5, 0.95, 0.99)
    )


def overview() -> list[Panel]:
    """Whether all is well, and what there is."""
    return [
        panel(
            "stat",
            "Leaders",
            "Must be 1. 0: nothing is decided. 2 for longer than a scrape: one has not noticed that its term"
            " ended.",
            "none",
            Query(f"sum(tally_leading{{{JOB}}})"),
            width=4,
            height=4,
            thresholds=thresholds((None, "red"), (1, "green"), (2, "red")),
        ),
        panel(
            "stat",
            "Replicas",
            "Replicas that answer Prometheus. Three is usual; with one, no replica can take over.",
            "none",
            Query(f"sum(up{{{JOB}}})"),
            width=4,
            height=4,
            thresholds=thresholds((None, "red"), (2, "orange"), (3, "green")),
        ),
        panel(
            "stat",
            "Ledger drift",
            "The sum of the differences between ledgers and holds. Anything but 0 breaks the promise: run"
            " tally audit.",
            "none",
            Query(f"sum(abs(tally_pool_drift{{{LEADER}}}))"),
            width=4,
            height=4,
            thresholds=GOOD_AT_ZERO,
        ),
        panel(
            "stat",
            "Audit findings",
            "Contradictions that the last audit found. Anything but 0: run tally audit.",
            "none",
            Query(f'max(sum by (instance) (tally_audit_findings{{{JOB}, severity="wrong"}}))'),
            width=4,
            height=4,
            thresholds=GOOD_AT_ZERO,
        ),
        panel(
            "stat",
            "Lost attempts",
            "Attempts that may have ended without proof; they keep what they hold. See tally explain.",
            "none",
            Query(f"sum(tally_tasks_lost{{{LEADER}}})"),
            width=4,
            height=4,
            thresholds=thresholds((None, "green"), (1, "orange")),
        ),
        panel(
            "stat",
            "Quarantined",
            "Records that do not parse, foreign keys, tasks set aside. Tally leaves them alone; tally audit"
            " names them.",
            "none",
            Query(f"max(sum by (instance) (tally_quarantined_records{{{JOB}}}))"),
            width=4,
            height=4,
            thresholds=thresholds((None, "green"), (1, "orange")),
        ),
        panel(
            "timeseries",
            "Unfinished tasks by state",
            "Waiting and running tasks, over all pools.",
            "none",
            Query(
                f'sum by (state) (tally_tasks{{{LEADER}, state!~"Succeeded|Failed|Cancelled"}})', "{{state}}"
            ),
            custom=STACKED,
        ),
        panel(
            "timeseries",
            "Transitions",
            "Steps of the lifecycle that were committed, by the state they lead to.",
            "ops",
            Query(f"sum by (to) (rate(tally_transitions_total{{{JOB}}}[{RATE}]))", "{{to}}"),
            custom=STACKED,
        ),
        panel(
            "timeseries",
            "Wait in the queue",
            "From submission, or the end of a back-off, to admission.",
            "s",
            *quantiles("tally_queue_wait_seconds", JOB),
        ),
        panel(
            "bargauge",
            "Held of the capacity",
            "How full each pool is, by resource. Above 100%: overcommitted, by an admin.",
            "percentunit",
            Query(
                f"max by (pool, resource) (tally_pool_held{{{LEADER}}})"
                f" / (max by (pool, resource) (tally_pool_capacity{{{LEADER}}}) > 0)",
                "{{pool}} {{resource}}",
            ),
            min=0,
            max=1,
            thresholds=thresholds((None, "green"), (0.9, "orange"), (1.0001, "red")),
        ),
        panel(
            "timeseries",
            "Failures by reason",
            "Steps to Failed; a retry follows where the task's policy allows.",
            "ops",
            Query(
                f'sum by (reason) (rate(tally_transitions_total{{{JOB}, to="Failed"}}[{RATE}])) or vector(0)',
                "{{reason}}",
            ),
            custom=STACKED,
        ),
        panel(
            "timeseries",
            "Elections",
            "Rises by one with each change of the leader."
            " A staircase is a rolling restart, a ramp is flapping.",
            "none",
            Query(f"max(tally_epoch{{{JOB}}} > 0)", "epoch"),
        ),
        panel(
            "stat",
            "Finished tasks kept",
            "By state, until their retention ends.",
            "none",
            Query(
                f'sum by (state) (tally_tasks{{{LEADER}, state=~"Succeeded|Failed|Cancelled"}})', "{{state}}"
            ),
            width=12,
            height=4,
        ),
        panel(
            "table",
            "Versions",
            "What runs where. Two versions for longer than a rollout: it is stuck.",
            "none",
            Query(f"sum by (instance, version) (tally_build_info{{{JOB}}})"),
            width=12,
            height=4,
        ),
        panel(
            "stat",
            "Schedules",
            "How many there are; a suspended one makes nothing.",
            "none",
            Query(f'sum(tally_schedules{{{LEADER}, suspended="false"}})', "on"),
            Query(f'sum(tally_schedules{{{LEADER}, suspended="true"}})', "suspended"),
            height=6,
        ),
        panel(
            "timeseries",
            "Ticks of schedules",
            "In an hour, by what became of them. Many skipped ones: tasks take longer than from one tick to"
            " the next.",
            "none",
            Query(f"sum by (outcome) (increase(tally_schedule_ticks_total{{{LEADER}}}[1h]))", "{{outcome}}"),
            width=16,
            height=6,
            min=0,
        ),
    ]


def pools() -> list[Panel]:
    """Resources, queues and times of the pools that are chosen."""
    shown = []
    for title, unit, match in (
        ("Cores", "none", '="cpu"'),
        ("Memory", "bytes", '="memory"'),
        ("Other resources", "none", '!~"cpu|memory"'),
    ):
        selector = f"{POOL}, resource{match}"
        about = f"{title} of the pools: what there is, and what the ledgers say is held."
        shown.append(
            panel(
                "timeseries",
                title,
                about,
                unit,
                Query(
                    f"max by (pool, resource) (tally_pool_capacity{{{selector}}})",
                    "{{pool}} {{resource}} capacity",
                ),
                Query(
                    f"max by (pool, resource) (tally_pool_held{{{selector}}})", "{{pool}} {{resource}} held"
                ),
                min=0,
            )
        )
    return [
        *shown,
        panel(
            "timeseries",
            "Free",
            "Capacity less what is held, in cores, bytes or counts. Below 0: overcommitted.",
            "short",
            Query(f"max by (pool, resource) (tally_pool_free{{{POOL}}})", "{{pool}} {{resource}}"),
        ),
        panel(
            "timeseries",
            "Waiting and running",
            "Tasks that are not finished.",
            "none",
            Query(
                f'max by (pool, state) (tally_tasks{{{POOL}, state!~"Succeeded|Failed|Cancelled"}})',
                "{{pool}} {{state}}",
            ),
            custom=STACKED,
        ),
        panel(
            "timeseries",
            "Admissible, paused",
            "1 while a task fits and is next but is not admitted yet; if this lasts for more than a moment,"
            " the queue is stuck. Paused pools admit nothing by their definition.",
            "none",
            Query(f"max by (pool) (tally_pool_admissible{{{POOL}}})", "{{pool}} admissible"),
            Query(f"max by (pool) (tally_pool_paused{{{POOL}}})", "{{pool}} paused"),
            min=0,
            max=1,
        ),
        panel(
            "timeseries",
            "Wait in the queue",
            "From submission, or the end of a back-off, to admission.",
            "s",
            *quantiles("tally_queue_wait_seconds", f'{JOB}, pool=~"$pool"', "pool"),
        ),
        panel(
            "timeseries",
            "Time to start",
            "From admission to the attempt observed running: scheduling, images, start.",
            "s",
            *quantiles("tally_start_seconds", f'{JOB}, pool=~"$pool"', "pool"),
        ),
        panel(
            "timeseries",
            "Run time",
            "From running to the observed end.",
            "s",
            *quantiles("tally_run_seconds", f'{JOB}, pool=~"$pool"', "pool"),
        ),
        panel(
            "timeseries",
            "Ends by state",
            "Attempts that ended, by the state that followed.",
            "ops",
            Query(
                f'sum by (pool, state) (rate(tally_run_seconds_count{{{JOB}, pool=~"$pool"}}[{RATE}]))',
                "{{pool}} {{state}}",
            ),
            custom=STACKED,
        ),
        panel(
            "timeseries",
            "Reasons",
            "Steps of the lifecycle by their reason.",
            "ops",
            Query(
                f'sum by (to, reason) (rate(tally_transitions_total{{{JOB}, pool=~"$pool"}}[{RATE}]))',
                "{{to}} {{reason}}",
            ),
        ),
        panel(
            "timeseries",
            "Lost attempts",
            "They may have ended without proof, and keep what they hold. See tally explain.",
            "none",
            Query(f"max by (pool) (tally_tasks_lost{{{POOL}}})", "{{pool}}"),
            min=0,
        ),
        panel(
            "timeseries",
            "Tasks on hold",
            "Users keep them from being admitted, until they are released.",
            "none",
            Query(f"max by (pool) (tally_tasks_on_hold{{{POOL}}})", "{{pool}}"),
            min=0,
        ),
        panel(
            "timeseries",
            "Tasks that wait for others",
            "They are in the queue once the tasks that they name in `after` have ended.",
            "none",
            Query(f"max by (pool) (tally_tasks_gated{{{POOL}}})", "{{pool}}"),
            min=0,
        ),
        panel(
            "timeseries",
            "Members of arrays",
            "Members that have not ended. Those that are Waiting are to begin.",
            "none",
            Query(
                f'max by (pool, state) (tally_array_members{{{POOL}, state!~"Succeeded|Failed|Cancelled"}})',
                "{{pool}} {{state}}",
            ),
            custom=STACKED,
        ),
        panel(
            "timeseries",
            "Shares of owners",
            "The dominant share of each owner of a pool with sharing: the smallest is served first.",
            "percentunit",
            Query(f"max by (pool, owner) (tally_owner_share{{{POOL}}})", "{{pool}} {{owner}}"),
            min=0,
        ),
        panel(
            "timeseries",
            "Owners: running and waiting",
            "Tasks that hold something, and tasks in the queue.",
            "none",
            Query(f"max by (pool, owner) (tally_owner_running{{{POOL}}})", "{{pool}} {{owner}} running"),
            Query(f"max by (pool, owner) (tally_owner_waiting{{{POOL}}})", "{{pool}} {{owner}} waiting"),
            min=0,
        ),
        panel(
            "timeseries",
            "Below their guarantee",
            "1 while a task fits into what is left of its owner's guarantee, and is not admitted.",
            "none",
            Query(f"max by (pool, owner) (tally_owner_below_guarantee{{{POOL}}})", "{{pool}} {{owner}}"),
            min=0,
            max=1,
        ),
        panel(
            "timeseries",
            "Use by owner",
            "What owners use of the pools, in cores, bytes or counts.",
            "short",
            Query(
                f"sum by (pool, owner, resource) (rate(tally_owner_used_total{{{POOL}}}[{RATE}]))",
                "{{pool}} {{owner}} {{resource}}",
            ),
            custom=STACKED,
        ),
        panel(
            "timeseries",
            "Use that brings nothing, by owner",
            "Of the use by owner: what attempts hold while they are lost, and while they are being stopped.",
            "short",
            *(
                Query(
                    f"sum by (pool, owner, resource) (rate(tally_owner_{part}_total{{{POOL}}}[{RATE}]))",
                    f"{{{{pool}}}} {{{{owner}}}} {{{{resource}}}} {part}",
                )
                for part in ("lost", "stopping")
            ),
            custom=STACKED,
        ),
        panel(
            "timeseries",
            "Preemption",
            "Attempts that are stopped for other tasks, and the tasks for which that happens.",
            "none",
            Query(
                f'sum by (pool) (increase(tally_transitions_total{{{JOB}, pool=~"$pool",'
                ' reason="preempted"}[1m])) or vector(0)',
                "{{pool}} stopped in a minute",
            ),
            Query(f"max by (pool) (tally_pool_claims{{{POOL}}})", "{{pool}} claims"),
            min=0,
        ),
    ]


def replica() -> list[Panel]:
    """One process: its office, how current it is, what it uses."""
    return [
        panel(
            "timeseries",
            "Phase",
            "1 for the phase that the replica is in:"
            " starting, following, taking-over, leading, stepping-down, stopping, stopped.",
            "none",
            Query(f"max by (instance, phase) (tally_phase{{{REPLICA}}})", "{{instance}} {{phase}}"),
            min=0,
            max=1,
        ),
        panel(
            "timeseries",
            "Lease left",
            "For how long the leader may still start effects; 0 on followers."
            " It renews every second: a dip is "
            "a renewal that was lost.",
            "s",
            Query(f"max by (instance) (tally_lease_remaining_seconds{{{REPLICA}}})", "{{instance}}"),
            min=0,
        ),
        panel(
            "timeseries",
            "Staleness",
            "Time since the last answer of etcd; the model may be that old."
            " Stays below the heartbeat when all is well.",
            "s",
            Query(f"max by (instance) (tally_staleness_seconds{{{REPLICA}}})", "{{instance}}"),
            min=0,
        ),
        panel(
            "timeseries",
            "Lag",
            "Revisions that a replica had yet to apply when it registered last.",
            "none",
            Query(f"max by (replica) (tally_replica_lag_revisions{{{JOB}}})", "{{replica}}"),
            min=0,
        ),
        panel(
            "timeseries",
            "Time since heartbeat",
            "Since each replica renewed its registration: every two seconds when all is well; it expires"
            " after ten.",
            "s",
            Query(f"max by (replica) (tally_replica_age_seconds{{{JOB}}})", "{{replica}}"),
            min=0,
        ),
        panel(
            "timeseries",
            "Age of the last audit",
            "Since any replica reached a verdict; the leader audits itself every minute.",
            "s",
            Query(f"min(tally_audit_age_seconds{{{JOB}}})", "age"),
            min=0,
        ),
        panel(
            "timeseries",
            "Revision",
            "etcd's revision that the model has applied; all replicas rise together.",
            "none",
            Query(f"max by (instance) (tally_revision{{{REPLICA}}})", "{{instance}}"),
        ),
        panel(
            "timeseries",
            "Reloads of the model",
            "Whole loads after a gap in the watch, by cause; each costs a read of all records.",
            "ops",
            Query(
                f"sum by (instance, cause) (rate(tally_model_reloads_total{{{REPLICA}}}[{RATE}]))"
                " or vector(0)",
                "{{instance}} {{cause}}",
            ),
        ),
        panel(
            "timeseries",
            "Take-overs",
            "From election to acting, for the take-overs of the last hour: model at the term, engine listed.",
            "s",
            Query(
                f"sum by (instance) (increase(tally_take_over_seconds_sum{{{REPLICA}}}[1h])) "
                f"/ (sum by (instance) (increase(tally_take_over_seconds_count{{{REPLICA}}}[1h])) > 0)"
                " or vector(0)",
                "{{instance}}",
            ),
        ),
        panel(
            "timeseries",
            "Memory",
            "Resident memory of the process: the model, mostly.",
            "bytes",
            Query(f"max by (instance) (process_resident_memory_bytes{{{REPLICA}}})", "{{instance}}"),
            min=0,
        ),
        panel(
            "timeseries",
            "Processor",
            "Cores in use. One is the most that the control loop can have.",
            "none",
            Query(
                f"sum by (instance) (rate(process_cpu_seconds_total{{{REPLICA}}}[{RATE}]))", "{{instance}}"
            ),
            min=0,
        ),
        panel(
            "timeseries",
            "Open files",
            "Connections to etcd, the engine and readers, against the limit of the process.",
            "none",
            Query(f"max by (instance) (process_open_fds{{{REPLICA}}})", "{{instance}} open"),
            Query(f"max by (instance) (process_max_fds{{{REPLICA}}})", "{{instance}} limit"),
            min=0,
        ),
        panel(
            "table",
            "Identity",
            "The replica's name, cluster and engine.",
            "none",
            Query(f"sum by (instance, replica, cluster, engine) (tally_replica_info{{{REPLICA}}})"),
        ),
        panel(
            "stat",
            "Knows of a leader",
            "0: it sees no leader key.",
            "none",
            Query(f"min by (instance) (tally_leader_known{{{REPLICA}}})", "{{instance}}"),
            thresholds=thresholds((None, "red"), (1, "green")),
        ),
    ]


def etcd_and_engine() -> list[Panel]:
    """The calls of Tally to etcd and the engine, and how they answer."""
    return [
        panel(
            "timeseries",
            "Transactions",
            "By who made them and what became of them. Conflicts are planned again; ambiguous ones were sent "
            "again until the deadline.",
            "ops",
            Query(
                f"sum by (kind, outcome) (rate(tally_transaction_seconds_count{{{JOB}}}[{RATE}]))",
                "{{kind}} {{outcome}}",
            ),
            custom=STACKED,
        ),
        panel(
            "timeseries",
            "Time of transactions",
            "The leader's plans: this bounds how fast states change.",
            "s",
            *quantiles("tally_transaction_seconds", f'{JOB}, kind="plan"'),
        ),
        panel(
            "timeseries",
            "Operations of a transaction",
            "Group commit: many small changes in one. etcd's limit is 128.",
            "none",
            *quantiles("tally_transaction_operations", f'{JOB}, kind="plan"'),
        ),
        panel(
            "timeseries",
            "Size of a transaction",
            "Keys and values. etcd's limit is 1.5 MiB.",
            "bytes",
            *quantiles("tally_transaction_bytes", f'{JOB}, kind="plan"'),
        ),
        panel(
            "timeseries",
            "Other calls to etcd",
            "By verb and outcome.",
            "ops",
            Query(
                f"sum by (verb, outcome) (rate(tally_store_request_seconds_count{{{JOB}}}[{RATE}]))",
                "{{verb}} {{outcome}}",
            ),
            custom=STACKED,
        ),
        panel(
            "timeseries",
            "Time of other calls to etcd",
            "The keep-alive among them: it must stay far below the lease's time.",
            "s",
            *quantiles("tally_store_request_seconds", JOB, "verb"),
        ),
        panel(
            "timeseries",
            "Size of etcd",
            "The database file, the part of it in use, and the limit if etcd reports it (3.6)."
            " The difference is "
            "freed by defragmenting.",
            "bytes",
            Query(f"max(tally_store_size_bytes{{{JOB}}})", "file"),
            Query(f"max(tally_store_size_in_use_bytes{{{JOB}}})", "in use"),
            Query(f"max(tally_store_quota_bytes{{{JOB}}})", "limit"),
            min=0,
        ),
        panel(
            "timeseries",
            "Watches given up",
            "Connections of the watch of etcd, by cause; the watch continues where it was.",
            "ops",
            Query(
                f"sum by (cause) (rate(tally_store_watch_restarts_total{{{JOB}}}[{RATE}])) or vector(0)",
                "{{cause}}",
            ),
        ),
        panel(
            "timeseries",
            "Endpoints that did not answer",
            "Requests that another member of etcd had to answer.",
            "ops",
            Query(
                f"sum by (endpoint) (rate(tally_store_endpoint_failures_total{{{JOB}}}[{RATE}]))"
                " or vector(0)",
                "{{endpoint}}",
            ),
        ),
        panel(
            "timeseries",
            "Calls to the engine",
            "By verb and outcome.",
            "ops",
            Query(
                f"sum by (verb, code) (rate(tally_engine_request_seconds_count{{{JOB}}}[{RATE}]))",
                "{{verb}} {{code}}",
            ),
            custom=STACKED,
        ),
        panel(
            "timeseries",
            "Time of calls to the engine",
            "Starts and lists, mostly.",
            "s",
            *quantiles("tally_engine_request_seconds", JOB, "verb"),
        ),
        panel(
            "timeseries",
            "Silence of the engine",
            "Since it last answered the leader. Everything about attempts is frozen meanwhile.",
            "s",
            Query(f"max(tally_engine_silence_seconds{{{JOB}}})", "silence"),
            min=0,
        ),
        panel(
            "timeseries",
            "The engine's own words",
            "Refusals and failures by code: 403 is a missing right, 429 its own limit.",
            "ops",
            Query(
                f"sum by (code) (rate(tally_engine_faults_total{{{JOB}}}[{RATE}])) or vector(0)", "{{code}}"
            ),
        ),
        panel(
            "timeseries",
            "Waiting for our own rate limit",
            "The share of time for which calls waited for their turn: raise kube_qps if it lasts.",
            "percentunit",
            Query(f"sum(rate(tally_engine_rate_limit_wait_seconds_total{{{JOB}}}[{RATE}]))", "waiting"),
            min=0,
        ),
        panel(
            "timeseries",
            "Ends of the engine's watch",
            "Unrequested ends, by cause; a list follows each.",
            "ops",
            Query(
                f"sum by (cause) (rate(tally_engine_watch_restarts_total{{{JOB}}}[{RATE}])) or vector(0)",
                "{{cause}}",
            ),
        ),
    ]


def variable(name: str, label: str, query: str, *, several: bool) -> dict[str, Any]:
    """A choice that the values of a label offer."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": several,
        "includeAll": several,
        **({"current": {"text": ["All"], "value": ["$__all"]}} if several else {}),
    }


def dashboard(uid: str, title: str, about: str, panels: list[Panel], *more: dict[str, Any]) -> dict[str, Any]:
    """Panels from left to right, a new row when one does not fit."""
    x = y = row = 0
    for number, each in enumerate(panels, start=1):
        grid = each["gridPos"]
        if x + grid["w"] > COLUMNS:
            x, y, row = 0, y + row, 0
        grid |= {"x": x, "y": y}
        x, row = x + grid["w"], max(row, grid["h"])
        each["id"] = number
    return {
        "uid": uid,
        "title": title,
        "description": about,
        "tags": ["tally"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [
            {
                "type": "dashboards",
                "title": "Tally",
                "tags": ["tally"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus"},
                variable("job", "Installation", "label_values(tally_build_info, job)", several=False),
                *more,
            ]
        },
        "panels": panels,
    }


def dashboards() -> dict[str, dict[str, Any]]:
    """File name → dashboard."""
    pool = variable("pool", "Pool", f"label_values(tally_pool_capacity{{{JOB}}}, pool)", several=True)
    instance = variable(
        "instance", "Replica", f"label_values(tally_build_info{{{JOB}}}, instance)", several=True
    )
    return {
        "overview.json": dashboard(
            "tally-overview", "Tally / Overview", "Whether all is well, and what there is.", overview()
        ),
        "pools.json": dashboard(
            "tally-pools", "Tally / Pools", "Resources, queues and times.", pools(), pool
        ),
        "replica.json": dashboard(
            "tally-replica",
            "Tally / Replica",
            "The phase, freshness and resource use of each replica.",
            replica(),
            instance,
        ),
        "etcd-engine.json": dashboard(
            "tally-etcd-engine",
            "Tally / etcd and engine",
            "The calls of Tally to etcd and the engine, and how they answer.",
            etcd_and_engine(),
        ),
    }


if __name__ == "__main__":
    for name, document in dashboards().items():
        (FOLDER / name).write_text(json.dumps(document, indent=1) + "\n")
