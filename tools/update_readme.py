"""Put measured numbers into README.md: what the demo printed, and a benchmark's committed result.

    python tools/update_readme.py --demo demo.txt --benchmark benchmarks/RESULT.md

``demo.txt`` is what ``make demo`` printed on stdout. Numbers in the README are never typed by hand.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def replace_block(text: str, name: str, content: str) -> str:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->``.

    Raises:
        SystemExit: the README has no such block.
    """
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"README.md has no block <!-- {name} -->")
    return pattern.sub(lambda match: match[1] + content.strip("\n") + "\n" + match[2], text)


def table_of(result: Path) -> str:
    """The Markdown table of a benchmark's result file."""
    return "\n".join(line for line in result.read_text(encoding="utf-8").splitlines() if line.startswith("|"))


def main() -> None:
    """Rewrite README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, help="file with the demo's output")
    parser.add_argument("--benchmark", type=Path, help="result file under benchmarks/")
    options = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    if options.demo is not None:
        shown = [line.rstrip() for line in options.demo.read_text(encoding="utf-8").splitlines()]
        text = replace_block(text, "demo", "```text\n" + "\n".join(shown) + "\n```")
    if options.benchmark is not None:
        text = replace_block(text, "benchmark", table_of(options.benchmark))
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
