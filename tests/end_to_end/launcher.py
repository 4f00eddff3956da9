"""Runs commands in forked processes, so that the libraries are imported once: requests in, exit codes out."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any


def work(request: dict[str, Any]) -> None:
    """In the child: the command, with its output in files, killed where the request says so."""
    for name, number in (("out", 1), ("err", 2)):
        handle = os.open(request[name], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
    if request["kill"]:
        part, left = request["kill"]
        replace = os.replace

        def deadly(source: Any, target: Any, **rest: Any) -> None:
            nonlocal left
            if part in str(target):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target, **rest)

        os.replace = deadly  # type: ignore[assignment]
    from mitune.cli import main

    code = main(request["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    """Fork for each request. Nothing of torch runs in this process, so its children start clean."""
    import diffusers
    import peft
    import transformers

    import mitune.report
    import mitune.stages.run

    assert diffusers
    assert peft
    assert transformers
    assert mitune.report
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                work(json.loads(line))
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(1)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
