#!/usr/bin/env bash
# diffusers 0.42.1: use_karras_sigmas spans the whole noise table in DPM-Solver, but only what timestep_spacing visits in Euler and Heun.
#
# Guess before running: Karras sigmas run from the table's largest σ to its smallest (Karras et al. 2206.00364, eq. 5), so with
# use_karras_sigmas=True the spacing no longer matters, and one config gives one grid in every scheduler.
# Seen: with Stable Diffusion's own config ("leading", offset 1) and 10 steps EulerDiscreteScheduler and HeunDiscreteScheduler begin at
# σ = 8.39, the noise of t = 901, where DPMSolverMultistepScheduler begins at 14.61, the table's end. "trailing" begins right and ends at
# 0.342 in place of 0.029. Only "linspace" spans the table in all three.
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
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler

print(f"diffusers {diffusers.__version__}")
TABLE = (14.6146, 0.0292)
EXPECTED = {"leading": (8.3907, 0.0413), "trailing": (14.6146, 0.3417), "linspace": TABLE}
as_described = True
for spacing, visited in EXPECTED.items():
    for kind in (EulerDiscreteScheduler, HeunDiscreteScheduler, DPMSolverMultistepScheduler):
        scheduler = kind(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing=spacing, steps_offset=1,
            use_karras_sigmas=True,
        )
        scheduler.set_timesteps(10)
        ends = scheduler.sigmas[0].item(), scheduler.sigmas[-2].item()
        print(f"{spacing:9s}{kind.__name__}: sigma from {ends[0]:.4f} to {ends[1]:.4f}")
        expected = TABLE if kind is DPMSolverMultistepScheduler else visited
        as_described &= all(abs(own - other) < 1e-3 for own, other in zip(ends, expected))
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PY
