"""Starts the command line in processes of their own: this one has imported what a run needs beforehand, and forks.

Reads one JSON object a line: {"run": arguments, "log": file, "folder": where or null, "environment": {}}
answers {"pid": …}, and {"poll": pid} answers {"exit": code or null}.
"""

import json
import os
import signal
import sys
import traceback

import scipy.stats  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch

from compressor.cli.root import main
from compressor.report import svg

sys.path.insert(0, os.path.dirname(__file__))  # noqa: PTH120
from quick import exporting_by_tracing, leaving_out_figures, traced

# matplotlib and the exporter import their parts at the first figure and the first file.
svg.draw(lambda figure: figure.subplots(), 100, "first", "a figure")
traced(torch.nn.Flatten(), torch.zeros(1, 3), 18)


def child(job):
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= job["environment"]
    if job["folder"] is not None:
        os.chdir(job["folder"])
        sys.path.insert(0, job["folder"])
    code = 70
    try:
        exporting_by_tracing(setattr)
        leaving_out_figures(setattr)
        main(job["run"], standalone_mode=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


for line in sys.stdin:
    job = json.loads(line)
    if "run" in job:
        pid = os.fork()
        if pid == 0:
            child(job)
        answer = {"pid": pid}
    else:
        pid, status = os.waitpid(job["poll"], os.WNOHANG)
        answer = {"exit": os.waitstatus_to_exitcode(status) if pid else None}
    print(json.dumps(answer), flush=True)
