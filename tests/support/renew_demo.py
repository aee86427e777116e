"""Runs the demo, and writes its last lines into both READMEs: `python -m tests.support.renew_demo`."""

from __future__ import annotations

import re
from pathlib import Path

from controller.dev.demo.run import ending, own_cluster, perform
from controller.dev.demo.words import WORDS, Language

ROOT = Path(__file__).parents[2]
READMES = {Language.EN: ROOT / "README.md", Language.ZH: ROOT / "README.zh.md"}
BLOCK = re.compile(r"(?<=<!-- demo -->\n```\n)(.*?)(?=\n```\n<!-- /demo -->)", re.DOTALL)


def shown(language: Language) -> list[str]:
    """The lines of the block in that language's README."""
    found = BLOCK.search(READMES[language].read_text())
    assert found is not None, f"{READMES[language].name} has no block of the demo"
    return found[1].splitlines()


def main() -> None:
    """One run, told in both languages."""
    with own_cluster() as cluster:
        result = perform(cluster, lambda _course, _ended: None)
    assert result.is_as_claimed, result
    for language, page in READMES.items():
        lines = "\n".join(ending(WORDS[language], result)).strip()
        page.write_text(BLOCK.sub(lambda _, lines=lines: lines, page.read_text()))  # type: ignore[misc]


if __name__ == "__main__":
    main()
