"""The two programs of the README run as printed, as two real processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "shared_fs" / "README.md").read_text(encoding="ascii")


def test_producer_and_consumer_run_as_printed(tmp_path):
    programs = re.findall(r"^```python\n(import sys\n.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert len(programs) == 2
    running = []
    for name, program in zip(("producer.py", "consumer.py"), programs, strict=True):
        (tmp_path / name).write_text(program)
        command = [sys.executable, str(tmp_path / name), str(tmp_path / "exchange")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        running.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        )
    produced, consumed = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert produced == "sent 48 bytes\n"  # 3 messages of 4 float32
    assert consumed.splitlines() == [
        "[0. 0. 0. 0.]",
        "[1. 1. 1. 1.]",
        "[2. 2. 2. 2.]",
        "the producer reported {'sent': 3}",
    ]
