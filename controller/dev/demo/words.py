"""What the demo says, in English and in Chinese. Both have the same fields, and the same names in braces."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from controller.dev.demo.course import (
    ACQUISITION,
    LATE_EVERY,
    REPLICAS,
    SUSPENDED_AT,
    TALLY_SUSPENDED_AT,
    TASKS,
    Course,
    Design,
)
from controller.dev.demo.result import DemoResult


class Language(StrEnum):
    """What `--lang` accepts."""

    EN = "en"
    ZH = "zh"


@dataclass(frozen=True, slots=True)
class Words:
    """The texts of one language. Braces are filled by `str.format`."""

    title: str
    what: tuple[str, ...]  # what runs; with {etcd}
    release: str  # heads of the first column
    acquisition: str
    release_title: str  # the same, as headings of the page
    acquisition_title: str
    colon: str
    last: str  # heads of further columns
    curve: str
    refused: str
    seconds: str
    verdict: str
    truth: str
    designs: dict[Design, str]
    right: str
    in_vain: str  # with {refused}
    wrong: str
    too_many: str  # with {units}
    lost: str  # with {units}
    rounds: str  # with {rounds} and {of}
    pauses: str
    pause: tuple[str, ...]
    take_over: str  # with {seconds}
    audit: str
    as_claimed: str
    not_as_claimed: str  # with {designs}
    page: str  # with {file}
    recorded: str  # legend of a curve


_NUMBERS = {
    "tasks": TASKS,
    "replicas": REPLICAS,
    "suspended": SUSPENDED_AT,
    "tally_suspended": TALLY_SUSPENDED_AT,
    "late": LATE_EVERY,
}

ENGLISH = Words(
    title="The problem that Tally exists for",
    what=(
        "{tasks} tasks hold 1 unit each, and end one after another. {replicas} replicas hear of every end.",
        "Right: as many units are free as tasks have ended.",
        "Then, {tasks} times, 1 unit is free, and tasks wait for it. Right: one task gets it.",
        "All of it runs now: {etcd}, and one process for each replica. A task is a record, and its end is"
        " told to each replica; Tally's tasks are processes.",
        "LAST is what is left at the end. REFUSED counts transactions that etcd refused, since what they"
        " compare had changed.",
    ),
    release="FREE AFTER … TASKS HAVE ENDED",
    acquisition="GIVEN OUT AFTER … ROUNDS",
    release_title="Free units, as tasks end",
    acquisition_title="Units given out, round by round",
    colon=": ",
    last="LAST",
    curve="CURVE",
    refused="REFUSED",
    seconds="SECONDS",
    verdict="VERDICT",
    truth="what is right",
    designs={
        Design.IN_TURN: "nobody decides, one after another",
        Design.AT_ONCE: "nobody decides, in a race",
        Design.BALANCE: "only the balance is versioned",
        Design.BOTH: "task and balance versioned, all write",
        Design.LEADER: "one leader without a fence",
        Design.FENCED: "one leader with a fence",
        Design.ACQUIRE: "nobody decides, all read first",
        Design.ACQUIRE_BALANCE: "the balance is versioned",
        Design.TALLY: "Tally, one leader killed, one suspended",
        Design.TALLY_ACQUIRE: "Tally",
    },
    right="right",
    in_vain="right, {refused} tries in vain",
    wrong="wrong",
    too_many="wrong: {units} too many",
    lost="wrong: {units} lost",
    rounds="wrong in {rounds} of {of} rounds",
    pauses="Some replicas are made to wait. That forces what happens on a busy system sooner or later:",
    pause=(
        "one after another: each replica waits until the one before it has written.",
        "in a race: one replica hears of every {late}th end only after the others have written.",
        "task and balance versioned: at the first end, all have read before one writes.",
        "one leader: at end {suspended} it is suspended (SIGSTOP) between what it reads and what it writes."
        " Its lease expires, another one leads to the last end, and it goes on (SIGCONT).",
        "all read first (and, below it, the balance versioned): in each round, all have read before one"
        " writes.",
        "Tally: its leader is killed (SIGKILL) as task {suspended} ends. As task {tally_suspended} ends,"
        " the next leader is suspended (SIGSTOP) until another one has written that end.",
    ),
    take_over="Tally's next leader had written the end of task {suspended} {seconds} s after the kill.",
    audit="$ tally audit",
    as_claimed="Each design was right or wrong as claimed. The reasons: deploy/consistency.md",
    not_as_claimed="NOT as claimed: {designs}. Please report this.",
    page="The curves: {file}",
    recorded="the design",
)

CHINESE = Words(
    title="Tally 要解决的问题",
    what=(
        "{tasks} 个任务各占用 1 份资源，先后结束。每个任务结束时，{replicas} 个副本都会收到事件。",
        "正确的结果：结束了多少个任务，就有多少份资源空闲。",
        "然后再跑 {tasks} 轮：每轮有 1 份空闲资源，有任务在等它。正确的结果：每轮恰好有一个任务得到它。",
        "全部当场运行：{etcd}，每个副本一个进程。任务是 etcd 里的一条记录，它的结束会通知每个副本；"
        "Tally 的任务则是真实的进程。",
        "“最终”是最后剩下的值。“被拒事务”是 etcd 拒绝的事务：它们要比较的记录已经变了。",
    ),
    release="前 n 个任务结束后的空闲资源",
    acquisition="前 n 轮累计分配的资源",
    release_title="任务先后结束时的空闲资源",
    acquisition_title="逐轮累计分配的资源",
    colon="：",
    last="最终",
    curve="曲线",
    refused="被拒事务",
    seconds="用时/秒",
    verdict="结论",
    truth="正确值",
    designs={
        Design.IN_TURN: "没有决策者，各副本依次写入",
        Design.AT_ONCE: "没有决策者，各副本竞相写入",
        Design.BALANCE: "只有余额带版本检查（乐观锁）",
        Design.BOTH: "任务和余额都带版本检查，所有副本都写",
        Design.LEADER: "只有领导者写，没有栅栏（fencing）",
        Design.FENCED: "只有领导者写，有栅栏",
        Design.ACQUIRE: "没有决策者，都读完再分配",
        Design.ACQUIRE_BALANCE: "余额带版本检查",
        Design.TALLY: "Tally，领导者一个被杀、一个被暂停",
        Design.TALLY_ACQUIRE: "Tally",
    },
    right="正确",
    in_vain="正确，但白费了 {refused} 个事务",
    wrong="错误",
    too_many="错误：多出 {units} 份",
    lost="错误：丢失 {units} 份",
    rounds="错误：{of} 轮中有 {rounds} 轮超额分配",
    pauses="人为加入了下列停顿，让繁忙系统里迟早会发生的情况现在就发生：",
    pause=(
        "依次写入：每个副本都等前一个副本写完。",
        "竞相写入：每 {late} 次任务结束中有一次，一个副本在其他副本写完之后才收到事件。",
        "任务和余额都带版本检查：第一个任务结束时，所有副本都读完之后，才有副本写入。",
        "只有领导者写：第 {suspended} 个任务结束时，领导者在读完之后、写入之前被暂停（SIGSTOP）。"
        "它的租约过期，另一个副本接任，一直领导到最后一个任务结束；这时原领导者才恢复运行（SIGCONT）。",
        "都读完再分配（以及它下面的余额带版本检查）：每一轮都是所有副本读完之后，才有副本写入。",
        "Tally：第 {suspended} 个任务结束时，领导者被杀死（SIGKILL）；第 {tally_suspended} 个任务结束时，"
        "接任的领导者被暂停（SIGSTOP），直到另一个副本接任并写下这次结束，才恢复运行。",
    ),
    take_over="Tally 的领导者被杀死 {seconds} 秒后，接任的领导者已经写下了第 {suspended} 个任务的结束。",
    audit="$ tally audit",
    as_claimed="每种设计的对错都与预期一致。原因见 deploy/consistency.md（英文）。",
    not_as_claimed="与预期不一致：{designs}。请报告这个问题。",
    page="曲线已写入：{file}",
    recorded="该设计的结果",
)

WORDS = {Language.EN: ENGLISH, Language.ZH: CHINESE}


def filled(text: str, **values: object) -> str:
    """A text with its braces filled; the numbers of the course need not be given."""
    return text.format(**_NUMBERS, **values)


def conclusion_of(words: Words, result: DemoResult) -> str:
    """The last sentence: whether all was as claimed, and what was not."""
    if result.is_as_claimed:
        return words.as_claimed
    unclaimed = ", ".join(words.designs[design] for design in result.unclaimed)
    return filled(words.not_as_claimed, designs=unclaimed or "tally audit")


def verdict_of(words: Words, course: Course) -> str:
    """What a finished course shows."""
    rounds = course.rounds_too_much
    if course.design in ACQUISITION and rounds:
        return filled(words.rounds, rounds=rounds, of=TASKS)
    if course.excess:
        text = words.too_many if course.excess > 0 else words.lost
        return filled(text, units=abs(course.excess))
    # what a fence refuses would have been wrong
    if course.refused and course.design in (Design.BOTH, Design.ACQUIRE_BALANCE):
        return filled(words.in_vain, refused=course.refused)
    return words.right
