#!/usr/bin/env bash
# diffusers 0.42.1: from one scheduler config, DPM-Solver and DDIM lay "leading" and "linspace" steps at different times.
#
# Guess before running: timestep_spacing says where the steps lie (Lin et al. 2305.08891, table 2), so
# DPMSolverMultistepScheduler.from_config(ddim.config) visits the times that DDIM visits.
# Seen: DPMSolverMultistepScheduler divides by one step more and drops the last: of 10 steps "leading" it visits
# 901, 811, ... 91 where DDIM visits 901, 801, ... 1, and "linspace" ends at 100 where DDIM's ends at 0. Only "trailing" is the
# same. So at few steps a swap of the scheduler changes the grid besides the solver, and what is compared is both.
#
# Runs: needs Python 3.11 to 3.13 and PyPI; about two minutes. Exit 0: as described; 1: it changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 2>/dev/null
"$work/venv/bin/pip" install --quiet diffusers==0.42.1 2>/dev/null
cd "$work"
OMP_NUM_THREADS=1 "$work/venv/bin/python" - 2>/dev/null <<'PY'
import sys

import diffusers
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

print(f"diffusers {diffusers.__version__}")
visited = {}
for spacing in ("leading", "linspace", "trailing"):
    ddim = DDIMScheduler(timestep_spacing=spacing, steps_offset=1)
    solver = DPMSolverMultistepScheduler.from_config(ddim.config)
    assert solver.config.timestep_spacing == spacing and solver.config.steps_offset == 1
    for scheduler in (ddim, solver):
        scheduler.set_timesteps(10)
    visited[spacing] = ddim.timesteps.tolist(), solver.timesteps.tolist()
    print(f"{spacing}: DDIM {visited[spacing][0]}")
    print(f"{' ' * len(spacing)}  DPM  {visited[spacing][1]}")
as_described = (
    visited["leading"] == ([*range(901, 0, -100)], [*range(901, 90, -90)])
    and visited["linspace"][0][-1] == 0 and visited["linspace"][1][-1] == 100
    and visited["trailing"][0] == visited["trailing"][1]
)
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PY
