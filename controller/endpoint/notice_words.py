"""The words of the notices on top of the live page, and how severe each is."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """The severity of a notice, the worst first."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"
    OK = "ok"


class NoticeWords(NamedTuple):
    """The text of a notice; braces mark the parts that vary."""

    severity: Severity
    title: str
    detail: str
    action: str


_CRITICAL, _WARNING, _INFO = Severity.CRITICAL, Severity.WARNING, Severity.INFO
STORE = "store-unreachable"
WORDS = {
    # The deepest cause comes first; the page shows notices of equal severity in this order.
    STORE: NoticeWords(
        _CRITICAL,
        "This replica does not hear from etcd",
        "The page shows what was known before. While no replica reaches etcd, nothing is admitted, stopped or"
        " recorded, and running attempts continue.{told}",
        "Run `tally check` to see the state of etcd, and meanwhile use the page of another replica.",
    ),
    "loop-stuck": NoticeWords(
        _CRITICAL,
        "This replica's control loop is stuck",
        "{seen}. The page shows what was known before.",
        "Restart this replica, and keep its log: this is a bug in Tally.",
    ),
    "no-leader": NoticeWords(
        _CRITICAL,
        "No replica leads",
        "Running tasks continue, but nothing is admitted, stopped or recorded until a leader is elected.",
        "A take-over takes a few seconds. If no replica leads after that, check that replicas run (`tally get"
        " replicas`) and that etcd has a quorum (`tally check`).",
    ),
    "leader-silent": NoticeWords(
        _CRITICAL,
        "The leader, {id}, is silent",
        "Every replica writes to etcd every few seconds. This one is gone, stopped, or cut off from etcd."
        " Another replica takes over when its lease ends.",
        "Check whether its process runs, and read its log. If no replica takes over, run `tally get replicas`"
        " and `tally check`.",
    ),
    "replica-silent": NoticeWords(
        _WARNING,
        "Replica {id} is silent",
        "Every replica writes to etcd every few seconds. This one is gone, stopped, or cut off from etcd.",
        "Check whether its process runs, and read its log. When its registration expires, the page"
        " says that it has ended.",
    ),
    "replica-behind": NoticeWords(
        _WARNING,
        "Replica {id} is {age} behind",
        "It does not hear from etcd, and would answer with old data.",
        "Read its log, and check its connection to etcd.",
    ),
    "gateway-not-ready": NoticeWords(
        _WARNING,
        "Gateway {id} is not ready",
        "It says that these do not hold: {problems}.",
        "Read its log: it says what is wrong with each.",
    ),
    "gateway-problem": NoticeWords(
        _WARNING,
        "Gateway {id} serves, and not all of its files can be used",
        "What was valid before stays in force, except for tokens: {problems}.",
        "Read its log: it says what is wrong with each. `tally gateway check-policy` checks the policy and"
        " the tokens.",
    ),
    "no-notifier": NoticeWords(
        _WARNING,
        "{waiting} to be told, and no notifier is on duty",
        "A pool asks in `notify` that its receivers are told. Until a notifier runs, they are not.",
        "Start `tally notifier`, or take `notify` from the pools.",
    ),
    "receiver-failing": NoticeWords(
        _WARNING,
        "{host} cannot be told about ended tasks",
        "The notifier tries again, for a day unless it was told otherwise. Its last answer: {why}.",
        "Mend the receiver. `tally notifier list` shows what it has yet to be told.",
    ),
    "notifier-problem": NoticeWords(
        _WARNING,
        "The notifier's file of secrets cannot be used",
        "The one before stays in force until the notifier is started again: {problem}.",
        "Mend the file: it is looked at again at once.",
    ),
    "notices-dead": NoticeWords(
        _WARNING,
        "{dead} could not be delivered",
        "The notifier has given them up.",
        "Run `tally notifier list` to see why. `tally notifier retry` tells the receivers again, and"
        " `tally notifier drop` forgets the notices.",
    ),
    "engine-silent": NoticeWords(
        _CRITICAL,
        "The engine does not answer the leader",
        "{id} could not list the attempts {since}. Nothing is admitted, and no attempt is taken to have"
        " ended; running attempts continue.",
        "Check that the engine is up (the Kubernetes API, the Docker daemon), and run `tally check` to see"
        " whether the leader may use it.",
    ),
    "other-engine": NoticeWords(
        _WARNING,
        "Replica {id} does not campaign",
        "It follows and answers reads, but must not lead: {problem}.",
        "If it has another engine, start it with the recorded one (`tally engine show`), or change the record"
        " with `tally engine adopt`. If its clock is wrong, set that right.",
    ),
    "audit-findings": NoticeWords(
        _CRITICAL,
        "The audit found {found}",
        "{id} audited {age} ago. The records or the engine did not agree with what Tally promises.",
        "Run `tally audit`: it lists each contradiction with its likely cause and its repair.",
    ),
    "ledger-drift": NoticeWords(
        _CRITICAL,
        "The ledger of pool {pool} does not match its holds",
        "The ledger says {ledger}, but the tasks hold {held}.",
        "Run `tally audit`: it shows the likely cause and the repair.",
    ),
    "queue-stuck": NoticeWords(
        _CRITICAL,
        "The queue of pool {pool} is stuck",
        "{id} fits and has been next for {age}, but is not admitted.",
        "Run `tally explain {id}`, and read the leader's log. `tally step-down` lets another replica lead.",
    ),
    "attempts-lost": NoticeWords(
        _WARNING,
        "{lost} lost, with resources held",
        "Nothing proves that they stopped (for example that of {example}): their resources stay held, and"
        " their tasks do not run again.",
        "Run `tally explain NAME` to see why. If you know that an attempt no longer runs, run `tally"
        " confirm-stopped NAME`.",
    ),
    "quarantined": NoticeWords(
        _WARNING,
        "{records} in quarantine",
        "Tally cannot use them, and leaves the tasks and pools that they belong to alone. All others"
        " continue.",
        "Run `tally audit`: it names the keys, and says what to do about each.",
    ),
    "undefined-pool": NoticeWords(
        _WARNING,
        "Tasks wait for a pool that is not defined: {pools}",
        "They are admitted once it is defined.",
        "Define the pool with `tally apply -f pool.yaml`, or cancel the tasks.",
    ),
    "never-fits": NoticeWords(
        _WARNING,
        "No waiting task fits into pool {pool}",
        "{waiting} waiting, and nothing is held: they ask for more than the pool has.",
        "Raise the pool's capacity (`tally apply`), or cancel the tasks.",
    ),
    "paused": NoticeWords(
        _INFO,
        "Pool {pool} is paused",
        "{waiting} waiting; running attempts continue.",
        "Apply its definition with `paused: false` to admit tasks again.",
    ),
    "maintenance": NoticeWords(
        _INFO,
        "A maintenance window of pool {pool} keeps tasks back",
        "It is {window}. {kept} could run into it, and wait until it has ended; running attempts continue.",
        "`tally drain {pool} --list` shows the windows, and `--remove` ends them.",
    ),
    "overcommitted": NoticeWords(
        _INFO,
        "Pool {pool} is overcommitted: {resources}",
        "Its capacity was lowered, or it was removed, while tasks ran. The overcommit ends as they finish.",
        "",
    ),
    "single-replica": NoticeWords(
        _INFO,
        "Only one replica runs",
        "No replica can take over if it fails.",
        "In production, run several: three is usual.",
    ),
    "mixed-versions": NoticeWords(
        _INFO, "The replicas run different versions", "{versions}: an upgrade is under way.", ""
    ),
}
