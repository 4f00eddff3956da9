"""Uploads through the real client to a Hub on loopback: once, again, refused, cut off, faulty."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mitune.errors import UserError
from mitune.families import lora
from mitune.files import write_tensors
from mitune.hub.push import check_repository, push
from tests.cli import main
from tests.hub.server import THRESHOLD, Hub, Repository

Refused = Callable[[list[str]], str]
NAME = "someone/a-model"
STATED = ["export.base_model=someone/small", "export.license=mit"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small export: a card, an adapter, a picture over the threshold for large files and one file below it."""
    import torch

    place = tmp_path / "export"
    write_tensors(place / lora.FILE, {"unet.x.lora_A.weight": torch.ones(2, 3)})
    (place / "README.md").write_text("---\ntags:\n- mitune\n---\n\n# x\n")
    (place / "pictures").mkdir()
    (place / "pictures/after-000.png").write_bytes(os.urandom(THRESHOLD + 1))
    (place / "provenance.json").write_text("{}\n")
    return place


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def whole(hub: Hub, folder: Path, name: str = NAME, branch: str = "main") -> bool:
    """Whether the repository holds just this folder."""
    there = hub.repositories[name].branches[branch]
    return {path: hub.file(name, path, branch) for path in there} == files(folder)


def attempt(folder: Path) -> str | None:
    """What a push is refused with, if it is."""
    try:
        push(folder, NAME)
    except UserError as error:
        return str(error)
    return None


def refusal(folder: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        push(folder, NAME, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert str(folder) in line
    return line


def test_everything_arrives_and_large_files_go_to_their_storage(folder: Path, hub: Hub) -> None:
    address = push(folder, NAME, private=True, message="first")
    assert address.startswith(hub.address)
    assert whole(hub, folder)
    assert hub.repositories[NAME].private
    assert [commit["summary"] for commit in hub.repositories[NAME].commits] == ["first"]
    assert len(hub.puts()) == len(hub.storage) == 2  # the adapter, and the picture over the threshold
    assert not hub.waits


def test_again_without_a_change_nothing_is_sent(folder: Path, hub: Hub) -> None:
    push(folder, NAME)
    hub.requests.clear()
    hub.received = 0
    push(folder, NAME)
    assert not hub.puts()
    assert len(hub.repositories[NAME].commits) == 1
    assert hub.received < THRESHOLD  # names, sizes and 512 bytes of each file
    (folder / "provenance.json").write_text("{1}\n")
    push(folder, NAME)
    assert hub.repositories[NAME].commits[-1]["files"] == ["provenance.json"]
    assert not hub.puts()
    assert whole(hub, folder)


def test_to_a_branch_that_is_made(folder: Path, hub: Hub) -> None:
    push(folder, NAME, revision="round/2")
    push(folder, NAME, revision="round/2")
    assert whole(hub, folder, branch="round/2")
    assert hub.repositories[NAME].branches["main"] == {}


def test_a_refused_token(folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "w" * 34)
    line = refusal(folder)
    assert "refused the token (401)" in line
    assert "hf_www" not in line
    assert not hub.repositories


def test_a_token_that_may_only_read(folder: Path, hub: Hub) -> None:
    hub.rights = "read"
    assert "may not write to someone/a-model (403)" in refusal(folder)
    hub.repositories[NAME] = Repository()  # made by another token; this one still may not write
    assert "(403)" in refusal(folder)
    assert hub.repositories[NAME].branches["main"] == {}


def test_no_token_and_nothing_is_asked(folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "there is no token for the Hub" in refusal(folder)
    assert not hub.requests


def test_no_network(folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody is there
    assert "the Hub cannot be reached" in refusal(folder)
    assert files(folder)


@pytest.mark.parametrize(
    "step", ["/api/repos/create", "/preupload/", "/objects/batch", "/storage/", "/commit/"]
)
@pytest.mark.parametrize("fault", [503, "drop before", "drop after"])
def test_a_fault_at_any_step_ends_whole_at_the_latest_with_the_next_command(
    step: str, fault: int | str, folder: Path, hub: Hub
) -> None:
    struck: list[str] = []

    def once(method: str, path: str) -> int | str | None:
        if step in path and not struck:
            struck.append(path)
            return fault
        return None

    hub.fault = once
    said, sent = attempt(folder), len(hub.puts())
    if step == "/commit/":  # the one request that the client does not repeat by itself
        assert said is not None
        assert "the same command goes on" in said
        assert attempt(folder) is None
        assert len(hub.puts()) == sent  # what had arrived is not sent again
    else:
        assert said is None
    assert struck
    assert whole(hub, folder)
    assert len(hub.repositories[NAME].commits) == 1


def test_a_fault_that_stays_is_said_after_some_tries(folder: Path, hub: Hub) -> None:
    for step, said in (("/api/repos/create", "(500)"), ("/storage/", "(502)")):
        tries: list[str] = []

        def always(method: str, path: str, step: str = step, tries: list[str] = tries) -> int | None:
            if step not in path:
                return None
            tries.append(path)
            return 500 if "create" in step else 502

        hub.fault = always
        assert f"the Hub has a fault of its own {said}" in refusal(folder)
        assert len(tries) >= 3
    hub.fault = lambda method, path: None
    push(folder, NAME)
    assert whole(hub, folder)


@pytest.mark.parametrize(
    "name", ["a", "a/b/c", "a/b c", "a/../b", "a/b--c", "a/b.git", "/b", "a/", "a/" + "b" * 97]
)
def test_names_that_no_repository_has(name: str) -> None:
    with pytest.raises(UserError, match=r"user/name") as caught:
        check_repository(name)
    assert "\n" not in str(caught.value)


def test_the_stage_sends_model_and_training_set(
    run_copy: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "export",
        f"run={run_copy}",
        f"export.push={NAME}",
        *STATED,
        "export.dataset=true",
        "export.private=true",
    ]
    assert main([*command, "export.dry_run=true"]) == 0
    shown = capsys.readouterr().out
    assert lora.FILE in shown
    assert "data/train-00000-of-00001.parquet" in shown
    assert f"{(run_copy / 'export' / lora.FILE).stat().st_size:,}" in shown
    assert "nothing was sent" in shown
    assert not hub.requests
    assert main(command) == 0
    assert whole(hub, run_copy / "export")
    assert whole(hub, run_copy / "export-dataset", f"datasets/{NAME}-dataset")
    assert hub.repositories[NAME].private
    assert hub.repositories[f"datasets/{NAME}-dataset"].private
    assert f'load_lora_weights("{NAME}")'.encode() in hub.file(NAME, "README.md")
    assert f"{NAME}-dataset".encode() in hub.file(NAME, "README.md")
    assert not any(hub.token.encode() in data for data in files(run_copy).values())


def test_a_refusal_is_one_line_and_the_folder_stays(
    run_copy: Path, hub: Hub, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "w" * 34)
    line = refused(["export", f"run={run_copy}", f"export.push={NAME}", *STATED])
    assert "401" in line
    assert (run_copy / "export/README.md").is_file()


def in_a_process(command: list[str], hub: Hub, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A command whose client reads the address and the token from its environment, as a user's does."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": hub.token,
        "HF_HOME": str(home),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
        **more,
    }
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert hub.token not in done.stdout + done.stderr
    return done


def test_through_xet_where_it_is_installed(folder: Path, hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("hf_xet")
    code = (
        f"from mitune.hub.push import push; from pathlib import Path; push(Path({str(folder)!r}), {NAME!r})"
    )
    in_a_process(["-c", code], hub, tmp_path / "home")
    there = hub.repositories[NAME].branches["main"]
    picture = (folder / "pictures/after-000.png").read_bytes()
    assert there.keys() == files(folder).keys()
    assert there["pictures/after-000.png"] == hashlib.sha256(picture).hexdigest()
    assert any(picture in xorb for xorb in hub.xorbs.values())  # what cannot be compressed goes as it is
    assert not hub.storage
    sent = len(hub.xorbs)
    in_a_process(["-c", code], hub, tmp_path / "home")
    assert len(hub.xorbs) == sent
    assert len(hub.repositories[NAME].commits) == 1


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own(run_copy: Path, hub: Hub, tmp_path: Path) -> None:
    command = ["-m", "mitune", "export", f"run={run_copy}", f"export.push={NAME}", *STATED]
    in_a_process(command, hub, tmp_path / "home", HF_HUB_DISABLE_XET="1")
    assert whole(hub, run_copy / "export")
