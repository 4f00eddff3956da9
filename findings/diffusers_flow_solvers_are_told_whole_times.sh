#!/usr/bin/env bash
# diffusers 0.42.1: on a rectified flow DPM-Solver and UniPC tell the network whole times, not those of their σ.
#
# Guess before running: with use_flow_sigmas=True the network is told t = 1000 σ, as FlowMatchEulerDiscreteScheduler tells it: flows
# are trained on all times, and a flow's grid hardly ever falls on whole ones.
# Seen: both cut the times to whole numbers (963 for σ = 0.96394), while the step itself is taken with the exact σ; FlowMatchEuler tells
# exact times. So a swap of the solver also moves what the network is told, by up to one in a thousand, always towards clean data.
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
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

print(f"diffusers {diffusers.__version__}")
as_described = True
for kind in (DPMSolverMultistepScheduler, UniPCMultistepScheduler):
    scheduler = kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(10)
    exact = [1000 * sigma for sigma in scheduler.sigmas[:-1].tolist()]
    told = scheduler.timesteps.tolist()
    print(f"{kind.__name__}: told {told}, of {[round(t, 2) for t in exact]}")
    as_described &= all(isinstance(t, int) and 0 <= t_exact - t <= 1.001 for t, t_exact in zip(told, exact))
    as_described &= max(t_exact - t for t, t_exact in zip(told, exact)) > 0.5
euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
euler.set_timesteps(10)
print(f"FlowMatchEuler: told {[round(t, 2) for t in euler.timesteps.tolist()]}")
as_described &= all(abs(t - 1000 * s) < 0.01 for t, s in zip(euler.timesteps.tolist(), euler.sigmas[:-1].tolist()))
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PY
