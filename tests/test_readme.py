"""The README's Python blocks run as written, one after the other, in a fresh folder."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_readme_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    namespace = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"README block {number}", "exec"), namespace)  # noqa: S102
