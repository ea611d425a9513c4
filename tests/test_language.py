"""Words and phrases that this project replaced by the field's terms and plain English do not return."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = (".py", ".md", ".html", ".js", ".css", ".toml")
EXEMPT = {"tests/test_language.py", "CHANGELOG.md"}  # both have to name the old words
NAMES = "|".join(
    (
        r"gatekeeper|\bgates?\b|\bgate_|_gate\b|questioned|looked_at|roomy|in_its_roles|once_a_machine|gradients_stay_here",
        r"from_leader|RandFlairInsteadd|cut_otherwise|in_integers|quicken|hasten|\bDiscreet",
        r"_(?:told|heard|said|asked)(?:_|\b)|\btold_|\bstrangers?\b|\bspoil(?:t|ed|er|s)?\b",
        r"\bclass (?:Lost|Served|Fixed|Asked|Check)\b|\bjudge_|\bstore_answer\b|\berror_in_words\b|\ba_(?:slice|study)\(",
    )
)
SENTENCES = "|".join(
    (
        r"\bcame\b(?! (?:from|out)\b)",
        r"\b(?:is|are) accepted\b",
        r"\bof its own accord\b",
        r"\bstands? in all\b",
        r"\bto be had\b",
        r"\bnothing of (?:a|the|it)\b",
        r"\b(?:is|are|was|were|be|been) (?:asked about|questioned)\b",
        r"\b(?:told|heard|said|opinions?)\b|\bdoubt(?:s|ful|fully)?\b|\bjudg(?:e|es|ed|ing|ements?|ments?)\b",
        r"\bout of sight\b|\bkeeps? (?:its|their) promises\b|\bfor a human\b",
        r"\b(?:what|where) (?:the verdict|it|they|a network) look(?:s|ed) at\b",
        r"\basks? for a human\b",
        r"\bwhatever for whom",
        r"\bwhomever\b",
        r"\bwhom (?:it|they|training)\b",
        r"\b(?:rooms?|house) of\b|\bthis room\b|\bonly room\b",
        r"\bmay stand instead\b",
        r"\bcosts? no study\b",
        r"\bnever saw (?:it|them)\b",
        r"\bnone (?:came|was told)\b",
        r"\blone (?:slice|sequence|volume|picture|image)s?\b",
        r"\bfrom whom(?:ever)?\b",
        r"\b(?:tells|do not tell|does not tell) (?:what|how|where|which|nothing)\b",
        r"\bby what(?:ever)? (?:it|a network|they) (?:is|are|was)\b",
        r"\bdoes this machine compute\b",
        r"(?<![%\w.{])\d+(?:\.\d+)? %(?=[\s,.;:)|*]|$)(?! [\w(]+(?: ==|\)))",
    )
)
PATTERN = re.compile(f"({NAMES})|({SENTENCES})", re.IGNORECASE)


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = done.stdout.split("\0") if done.returncode == 0 else []
    return [ROOT / name for name in names if name.endswith(SUFFIXES) and name not in EXEMPT and (ROOT / name).exists()]


FILES = tracked_files()


@pytest.mark.skipif(not FILES, reason="needs a git checkout")
def test_no_replaced_word_or_phrase_returns():
    found = []
    for path in FILES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found += [f"{path.relative_to(ROOT)}:{number}: {match[0]}" for match in PATTERN.finditer(line)]
    assert not found, "\n".join(["use the terms of CONTRIBUTING.md's glossary and plain English:", *found])
