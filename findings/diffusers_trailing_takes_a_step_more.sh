#!/usr/bin/env bash
# diffusers 0.42.1: with timestep_spacing="trailing", 62 of the possible numbers of steps give one step more than was asked.
#
# Guess before running: set_timesteps(n) lays n steps, as "leading" and "linspace" do, whatever n is; at most n beyond the
# table's length is refused.
# Seen: at n = 61, 103, 121, 122, ... n + 1 steps are laid, by DDIM, DDPM, Euler, DPM-Solver and UniPC alike. The grid is counted down
# by the float 1000/n until 0, and where n of these end a rounding error above 0 one more step is taken, at time −1.
# So 61 steps cost 62 evaluations, and the picture's last step is told a time outside of the table.
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
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

print(f"diffusers {diffusers.__version__}")
as_described = True
for kind in (DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler):
    more = {}
    for steps in range(1, 1000):
        scheduler = kind(timestep_spacing="trailing")
        scheduler.set_timesteps(steps)
        if len(scheduler.timesteps) != steps:
            more[steps] = len(scheduler.timesteps) - steps, scheduler.timesteps[-1].item()
    print(f"{kind.__name__}: {len(more)} numbers of steps, {[*more.items()][:4]} ...")
    as_described &= len(more) == 62 and [*more][:4] == [61, 103, 121, 122] and {extra for extra, _ in more.values()} == {1}
    as_described &= all(last <= 0 for _, last in more.values())
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PY
