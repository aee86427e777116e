"""`README.zh.md` says what `README.md` says: the same sections, blocks, links, names and numbers, in the same
order. Each check returns the differences that it finds, and finds those of a forged pair.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import unified_diff
from typing import NamedTuple

import pytest

from tests.architecture.test_readme import CHINESE, ORDER, README

TITLES = {
    "Tally": "Tally",
    "Two commands": "两条命令",
    "A first hour": "上手一小时",
    "Shared by many": "多人共享",
    "How it works": "工作原理",
    "What it cannot promise": "不能承诺什么",
    "Where the rest is": "更多内容",
}

MARKED = re.compile(r"^<!-- (\w+) -->$.*?^<!-- /\1 -->$", re.DOTALL | re.MULTILINE)
PIECE = re.compile(
    r"""  (?P<block>     ^```.*?^```$)
        | (?P<heading>   ^\#+\ [^\n]*)
        | (?P<row>       ^\|[^\n]*)
        | (?P<rule>      ^\d+\.[^\n]*(?:\n\ +[^\n]*)*)
        | (?P<item>      ^-[^\n]*(?:\n\ +[^\n]*)*)
        | (?P<quotation> ^>[^\n]*(?:\n>[^\n]*)*)
        | (?P<paragraph> ^[^\n]+(?:\n[^\n]+)*)""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAME = re.compile(r"`([^`\n]+)`")
COMMENT = re.compile(r"(?<= # ).*")
IDEOGRAPH = re.compile(r"[\u4e00-\u9fff]")
GAP = re.compile(rf"{IDEOGRAPH.pattern}\n *{IDEOGRAPH.pattern}")
STRONG = re.compile(r"(.?)\*\*(.+?)\*\*(.?)", re.DOTALL)
SENTENCE = re.compile(r"(?:[A-Za-z']+[ ,.:;]+){3}[A-Za-z']")


class Piece(NamedTuple):
    """What a page is made of, in the order in which it is read."""

    kind: str
    text: str


def pieces(page: str) -> list[Piece]:
    """A generated part is a block of its own name: others compare what is in it."""
    found = PIECE.finditer(MARKED.sub(r"```\1\n```", page))
    return [Piece(match.lastgroup or "", match[0]) for match in found]


def pairs(english: str, chinese: str) -> Iterator[tuple[Piece, Piece]]:
    """The pieces in the same places. Where there are more on one page, `outlines` says so."""
    return zip(pieces(english), pieces(chinese), strict=False)


def between(expected: list[str], found: list[str]) -> list[str]:
    return list(unified_diff(expected, found, "README.md", "README.zh.md", lineterm=""))


def outlines(english: str, chinese: str) -> list[str]:
    """The headings, and how many paragraphs, blocks, rows, items and rules follow each."""

    def outline(page: str, titles: dict[str, str]) -> Iterator[str]:
        for kind, text in pieces(page):
            level, _, title = text.partition(" ")
            yield f"{level} {titles.get(title, title)}" if kind == "heading" else kind

    return between(list(outline(english, TITLES)), list(outline(chinese, {})))


def blocks(english: str, chinese: str) -> list[str]:
    """The code, without what a translation changes: comments, and the words in a flowchart."""

    def code(page: str) -> Iterator[str]:
        for text in (text for kind, text in pieces(page) if kind == "block"):
            if text.startswith("```mermaid"):
                edges = re.sub(r"(--|-\.) .+? (-->|\.->)", r"\1 \2", text)
                yield from re.sub(r"([\[(]+)[^\[\]()]+([\])]+)", r"\1\2", edges).splitlines()
            else:
                yield from COMMENT.sub("", text).splitlines()

    return between(list(code(english)), list(code(chinese)))


def links(english: str, chinese: str) -> list[str]:
    """Where each piece's links lead; a sentence may name them in another order."""

    def targets(piece: Piece) -> list[str]:
        return sorted("the other language" if each in other else each for each in LINK.findall(piece.text))

    other = (README.name, CHINESE.name)
    both = [(targets(ours), targets(theirs), theirs) for ours, theirs in pairs(english, chinese)]
    return [f"{ours} became {theirs}: {piece.text}" for ours, theirs, piece in both if ours != theirs]


def names(english: str, chinese: str) -> list[str]:
    """The names in each piece are the same, and no number is missing."""

    def numbers(text: str) -> set[str]:
        return set(re.findall(r"\d[\d.,]*\b", NAME.sub("", LINK.sub("", text))))

    found: list[str] = []
    for ours, theirs in pairs(english, chinese):
        if ours.kind != "block":
            differ = {*NAME.findall(ours.text)} ^ {*NAME.findall(theirs.text)}
            differ |= numbers(ours.text) - numbers(theirs.text)
            found += [f"{each}: {theirs.text}" for each in sorted(differ)]
    return found


def language(english: str, chinese: str) -> list[str]:
    """What is still English, wholly or in part: of a block, its comments."""

    def prose(piece: Piece) -> list[str]:
        if piece.kind == "block":
            return COMMENT.findall(piece.text)
        return [NAME.sub("", re.sub(r"\]\([^)\s]+\)", "]", piece.text))]

    found: list[str] = []
    for ours, theirs in pairs(english, chinese):
        both = zip(prose(ours), prose(theirs), strict=False) if ours.kind != "heading" else ()
        for before, after in both:
            told = re.search("[A-Za-z]", before) is None or IDEOGRAPH.search(after) is not None
            if not told or SENTENCE.search(after):
                found.append(after)
    return found


def typesetting(_: str, chinese: str) -> list[str]:
    """What GitHub would not show as it is meant. A line that ends between two ideographs gets a space there;
    two stars between punctuation and a letter stay stars.
    """
    found: list[str] = []
    for text in (text for kind, text in pieces(chinese) if kind != "block"):
        found += GAP.findall(text)
        for before, strong, after in STRONG.findall(text):
            if re.match(r"\w[^\w\s]", before + strong) or re.match(r"[^\w\s]\w", strong[-1] + after):
                found.append(f"{before}**{strong}**{after}")
    return found


CHECKS = (outlines, blocks, links, names, language, typesetting)


@pytest.mark.parametrize("check", CHECKS)
def test_both_readmes_say_the_same(check: Callable[[str, str], list[str]]) -> None:
    assert check(README.read_text(), CHINESE.read_text()) == []


ENGLISH_PAGE = """# Tally

[中文](README.zh.md)

It counts `cpu` for 3 replicas. See the **list of faults** in [this page](deploy/faults.md).

## Two commands

```
make run      # start a cluster
make test
```

```mermaid
flowchart LR
  user([someone]) -- asks --> replica[one of them] --> etcd[(etcd)]
  replica -. "reads from" .-> etcd
```

<!-- demo -->
free 180
<!-- /demo -->

1. **The first rule.** It holds.
2. The second.

- an item
  of two lines

> a promise

| question | page |
|---|---|
| Which? | [here](deploy/reference.md#fields) |
"""
CHINESE_PAGE = """# Tally

[English](README.md)。

它为 3 个副本统计 `cpu`。见[这一页](deploy/faults.md)的**故障清单**。

## 两条命令

```
make run      # 启动集群
make test
```

```mermaid
flowchart LR
  user([用户]) -- "请求" --> replica["其中一个"] --> etcd[(etcd)]
  replica -. "读取" .-> etcd
```

<!-- demo -->
空闲 180
<!-- /demo -->

1. **第一条规则。** 它成立。
2. 第二条。

- 一项，
  分成两行

> 一个承诺

| 问题 | 页面 |
|---|---|
| 哪个？ | [这里](deploy/reference.md#fields) |
"""


@pytest.mark.parametrize("check", CHECKS)
def test_a_translation_has_no_difference(check: Callable[[str, str], list[str]]) -> None:
    assert check(ENGLISH_PAGE, CHINESE_PAGE) == []


@pytest.mark.parametrize(
    ("check", "before", "after"),
    [
        (outlines, "## 两条命令", "### 两条命令"),
        (outlines, "## 两条命令", "## 两个命令"),
        (outlines, "## 两条命令\n", ""),
        (outlines, "它为 3", "## 上手一小时\n\n它为 3"),
        (outlines, "它为 3", "多出一段。\n\n它为 3"),
        (outlines, "<!-- demo -->\n空闲 180\n<!-- /demo -->\n", ""),
        (outlines, "2. 第二条。\n", ""),
        (outlines, "2. 第二条。", "- 第二条。"),
        (outlines, "- 一项，\n  分成两行\n", ""),
        (outlines, "> 一个承诺\n", ""),
        (outlines, "| 哪个？ | [这里](deploy/reference.md#fields) |\n", ""),
        (blocks, "make run ", "make tun "),
        (blocks, "make run      # 启动集群\nmake test", "make test\nmake run      # 启动集群"),
        (blocks, "      # 启动集群", ""),
        (blocks, "make test", "make test  # 运行测试"),
        (blocks, "```mermaid", "```"),
        (blocks, "user([用户])", "user[用户]"),
        (blocks, "--> etcd", "-.-> etcd"),
        (blocks, '  replica -. "读取" .-> etcd\n', ""),
        (blocks, "demo -->", "lifecycle -->"),
        (links, "deploy/faults.md", "deploy/engines.md"),
        (links, "[这一页](deploy/faults.md)", "这一页"),
        (links, "#fields", ""),
        (links, "(README.md)", "(SECURITY.md)"),
        (names, "`cpu`", "`CPU`"),
        (names, "`cpu`", "cpu"),
        (names, "`cpu`", "`cpu` 和 `memory`"),
        (names, "3 个副本", "5 个副本"),
        (language, "一个承诺", "a promise"),
        (language, "# 启动集群", "# start it"),
        (language, "它成立。", "It holds for all of them."),
        (language, "[这一页]", "[the page that lists them]"),
        (language, "| 哪个？ | [这里]", "| Which? | [here]"),
        (typesetting, "一项，\n", "一项\n"),
        (typesetting, "规则。** 它", "规则。**它"),
        (typesetting, "的**故障清单**", "的**《故障清单》**"),
    ],
)
def test_each_difference_is_found(check: Callable[[str, str], list[str]], before: str, after: str) -> None:
    assert before in CHINESE_PAGE
    assert check(ENGLISH_PAGE, CHINESE_PAGE.replace(before, after)) != []


def test_every_title_has_a_translation() -> None:
    assert list(TITLES) == ["Tally", *ORDER]
