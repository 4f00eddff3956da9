"""The files of launch/, and ``launch=``: which file, which command, whose exit code."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mitune import launcher
from mitune.errors import UserError
from mitune.launcher import command, is_launched, launch, launch_file, launch_folder, leave_code

FOLDER = launch_folder()
KINDS = {
    "cpu_2": "MULTI_GPU",  # accelerate's MULTI_CPU needs MPI; see the file
    "single_gpu": "NO",
    "multi_gpu": "MULTI_GPU",
    "multi_node": "MULTI_GPU",
    "fsdp": "FSDP",
    "deepspeed_zero2": "DEEPSPEED",
}


def test_every_file_is_one_that_accelerate_reads() -> None:
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

    assert {path.stem for path in FOLDER.glob("*.yaml")} == KINDS.keys()
    for name, kind in KINDS.items():
        config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
        assert isinstance(config, ClusterConfig)
        assert config.distributed_type == kind
        assert config.mixed_precision == "no"  # precision is mitune's own key
        assert config.num_machines == (2 if name == "multi_node" else 1)


def test_fsdp_and_deepspeed_ask_for_what_training_can_keep() -> None:
    from accelerate.commands.config.config_args import ClusterConfig

    fsdp = ClusterConfig.from_yaml_file(FOLDER / "fsdp.yaml").fsdp_config
    assert fsdp["fsdp_version"] == 2
    assert fsdp["fsdp_offload_params"] is False
    assert ClusterConfig.from_yaml_file(FOLDER / "deepspeed_zero2.yaml").deepspeed_config["zero_stage"] == 2


def test_the_readme_names_every_file() -> None:
    text = (FOLDER / "README.md").read_text()
    for path in FOLDER.iterdir():
        assert path.name == "README.md" or f"`{path.name}`" in text
    assert re.search(r"^torchrun .*-m mitune", text, re.MULTILINE)


def test_a_file_is_found_by_name_or_path(tmp_path: Path) -> None:
    assert launch_file("multi_gpu") == FOLDER / "multi_gpu.yaml"
    own = tmp_path / "own.yaml"
    own.write_text("num_machines: 1\n")
    assert launch_file(str(own)) == own
    with pytest.raises(UserError, match="did you mean 'multi_gpu'"):
        launch_file("multi_gpus")
    with pytest.raises(UserError, match="no such file"):
        launch_file(str(tmp_path / "missing.yaml"))


@pytest.mark.parametrize("text", ["a: [", "- 1", "num_machines: many", "\x00"])
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UserError, match="no configuration of accelerate"):
        command(tmp_path / "own.yaml", ["run"])


def test_jobs_side_by_side_take_free_ports() -> None:
    one = command(FOLDER / "multi_gpu.yaml", ["run", "seed=1"])
    assert one[-4:] == ["-m", "mitune", "run", "seed=1"]
    assert one[one.index("--main_process_port") + 1] == "0"
    assert "--main_process_port" not in command(
        FOLDER / "multi_node.yaml", ["run"]
    )  # all machines need the same


@pytest.mark.parametrize(
    ("name", "gpus", "cpu", "asked"),
    [
        ("multi_gpu", 8, "", "8"),
        ("fsdp", 8, "", "8"),
        ("multi_gpu", 0, "", None),
        ("multi_gpu", 8, "true", None),
        ("cpu_2", 8, "", None),
        ("multi_node", 8, "", None),
    ],
)
def test_all_gpus_are_all_there_are(
    name: str, gpus: int, cpu: str, asked: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setenv("ACCELERATE_USE_CPU", cpu)
    words = command(FOLDER / f"{name}.yaml", ["run"])
    assert (words[words.index("--num_processes") + 1] if "--num_processes" in words else None) == asked


def test_a_process_knows_that_it_was_launched() -> None:
    assert is_launched({"RANK": "0"})
    assert is_launched({"LOCAL_RANK": "1"})
    assert not is_launched({"PATH": "/bin"})


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """``pretend(code)``: in the place of accelerate, a Python process that runs ``code``."""

    def replace(code: str) -> None:
        monkeypatch.setattr(launcher, "command", lambda path, words: [sys.executable, "-c", code, *words])

    return replace


NOTE = "import os; open(os.environ['MITUNE_EXIT_CODES'], 'a').write({!r});"


@pytest.mark.parametrize(
    ("said", "left", "code"),
    [("0\n0\n", 0, 0), ("2\n2\n", 1, 2), ("75\n75\n", 1, 75), ("1\n75\n", 1, 75), ("", 1, 1), ("0\n", 1, 1)],
)
def test_the_processes_code_says_more_than_the_launchers(
    said: str, left: int, code: int, pretend: Callable[[str], None]
) -> None:
    pretend(NOTE.format(said) + f"raise SystemExit({left})")
    assert launch("cpu_2", ["run"]) == code


def test_a_killed_launcher_has_the_shells_code(pretend: Callable[[str], None]) -> None:
    pretend("import os; os.kill(os.getpid(), 9)")
    assert launch("cpu_2", ["run"]) == 137


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_wish_to_stop_reaches_the_launcher_as_sigterm(
    number: signal.Signals, pretend: Callable[[str], None], tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    pretend(
        "import signal, sys, time, pathlib\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (exec({NOTE.format('75')!r}), sys.exit(1)))\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(60)"
    )

    def tell() -> None:
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    teller = threading.Thread(target=tell)
    teller.start()
    assert launch("cpu_2", ["run"]) == 75
    teller.join()
    assert signal.getsignal(number) == before


def test_a_code_is_left_only_where_one_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(launcher.CODES, raising=False)
    leave_code(3)
    monkeypatch.setenv(launcher.CODES, str(tmp_path / "codes"))
    leave_code(3)
    leave_code(0)
    assert (tmp_path / "codes").read_text() == "3\n0\n"


# -- SLURM, with commands of the same names in its place ---------------------------------------------------------

SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=$((task % 2)) "$@" & tasks+=($!)
done
trap 'kill -TERM "${tasks[@]}"' TERM
code=0
for task in "${tasks[@]}"; do
  wait "$task"; own=$?
  while kill -0 "$task" 2>/dev/null; do wait "$task"; own=$?; done
  ((own > code)) && code=$own
done
exit $code
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'node-a\\nnode-b\\n'; else echo "$@" >> "$FAKE/asked"; fi
"""


def slurm(folder: Path, mitune: str, *words: str) -> subprocess.Popen[str]:
    """``launch/slurm.sbatch`` with 4 tasks on 2 nodes; ``mitune``: what it runs in mitune's place."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "FAKE": str(folder),
        "MITUNE": mitune,
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_NTASKS": "4",
        "SLURM_CPUS_PER_TASK": "3",
    }
    script = ["bash", str(FOLDER / "slurm.sbatch"), *words]
    return subprocess.Popen(
        script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_slurm_gives_every_task_its_place(tmp_path: Path) -> None:
    show = tmp_path / "show"
    show.write_text(
        "#!/bin/bash\n"
        'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $OMP_NUM_THREADS [$*]" > "$FAKE/rank-$RANK"\n'
    )
    show.chmod(0o755)
    job = slurm(tmp_path, str(show), "run", "prompts.source=my prompts.txt")
    _, err = job.communicate(timeout=60)
    assert (job.returncode, err) == (0, "")
    lines = [(tmp_path / f"rank-{rank}").read_text().strip() for rank in range(4)]
    words = "[run prompts.source=my prompts.txt]"
    assert lines == [f"{rank} {rank % 2} 4 node-a 24711 3 {words}" for rank in range(4)]
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(("code", "again"), [(75, True), (2, False), (1, False)])
def test_slurm_requeues_what_asks_for_it_and_nothing_else(code: int, again: bool, tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    ends.write_text(f"#!/bin/bash\nexit {code}\n")
    ends.chmod(0o755)
    job = slurm(tmp_path, str(ends), "run")
    job.communicate(timeout=60)
    assert job.returncode == code
    asked = tmp_path / "asked"
    assert (asked.read_text().split() if asked.exists() else []) == (["requeue", "4711"] if again else [])


def test_slurm_waits_for_the_answer_when_it_is_told_to_stop_itself(tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    ends.write_text(
        '#!/bin/bash\ntrap "exit 75" TERM\ntouch "$FAKE/up-$RANK"\nwhile true; do sleep 0.05; done\n'
    )
    ends.chmod(0o755)
    job = slurm(tmp_path, str(ends), "run")
    while len(list(tmp_path.glob("up-*"))) < 4:
        assert job.poll() is None
        time.sleep(0.01)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    for process in (job.pid, *map(int, children)):  # SLURM tells the script and the step
        os.kill(process, signal.SIGTERM)
    job.communicate(timeout=60)
    assert job.returncode == 75
    assert (tmp_path / "asked").read_text().split() == ["requeue", "4711"]


def test_slurms_script_is_executable_and_parses() -> None:
    path = FOLDER / "slurm.sbatch"
    assert path.stat().st_mode & stat.S_IXUSR
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", path.read_text(), re.MULTILINE))
    assert "requeue" in options
    assert options["signal"].startswith("USR1@")
