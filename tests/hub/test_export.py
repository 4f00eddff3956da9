"""The stage ``export``: the folder, and that it is what others can use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import DatasetCard, ModelCard
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from mitune import digests
from mitune.families import load_denoiser, lora
from mitune.files import read_json, write_json
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from tests.cli import main
from tests.hub.conftest import HOSTILE

Refused = Callable[[list[str]], str]
PROMPTS = ["a red circle", "a blue square on a green star"]
SEEDS = [3, 4]
SAMPLER = SamplerConfig("ddim", steps=3, eta=0.0, spacing="leading", steps_offset=1, guidance=3.0)
CLOSE = 1e-4


def pictures(model: Path, **more: object) -> Tensor:
    denoiser = load_denoiser({"path": str(model), "device": "cpu", "dtype": "float32", **more})
    latents = sample(denoiser, denoiser.encode_prompts(PROMPTS), SEEDS, SAMPLER)
    with torch.no_grad():
        return denoiser.decode(latents)


@pytest.fixture(scope="session")
def exported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that can be exported."""
    out = tmp_path_factory.mktemp("exports") / "mine"
    more = ["export.merged=true", "export.comfy=true", "export.dataset=true"]
    assert main(["export", f"run={finished_run}", f"export.out={out}", *more]) == 0
    return out


def test_the_folder_holds_what_was_asked_for(exported: Path, finished_run: Path) -> None:
    names = {file.relative_to(exported).as_posix() for file in exported.rglob("*") if file.is_file()}
    assert {name for name in names if "/" not in name} == {
        "README.md",
        "config.yaml",
        "provenance.json",
        lora.FILE,
    }
    assert {name for name in names if name.startswith(("pictures", "comfy"))} == {
        "pictures/before-000.png",
        "pictures/after-000.png",
        "pictures/before-001.png",
        "pictures/after-001.png",
        "comfy/mine.safetensors",
    }
    assert "merged/model_index.json" in names
    assert (exported / lora.FILE).read_bytes() == (finished_run / "round-1/adapter" / lora.FILE).read_bytes()
    assert not list(exported.parent.glob(".*"))


def test_the_plain_pipeline_draws_our_pictures_with_it(exported: Path, tiny_pipeline_folder: Path) -> None:
    import diffusers
    from diffusers import AutoPipelineForText2Image

    from mitune.sampling.seeds import candidate_noise

    ours = pictures(tiny_pipeline_folder, adapter=str(exported))
    plain = AutoPipelineForText2Image.from_pretrained(str(tiny_pipeline_folder), safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    plain.load_lora_weights(str(exported))
    noise = torch.stack([candidate_noise(seed, (4, 8, 8), 0)[0] for seed in SEEDS])
    made = plain(
        PROMPTS, num_inference_steps=3, latents=noise, guidance_scale=3.0, output_type="pt", eta=0.0
    ).images
    assert isinstance(plain.scheduler, diffusers.DDIMScheduler)
    assert (made - ours).abs().max() <= CLOSE
    assert (ours - pictures(tiny_pipeline_folder)).abs().max() > 100 * CLOSE  # and the adapter does something


def test_the_merged_pipeline_draws_them_without_an_adapter(
    exported: Path, tiny_pipeline_folder: Path
) -> None:
    merged = pictures(exported / "merged")
    assert (merged - pictures(tiny_pipeline_folder, adapter=str(exported))).abs().max() <= CLOSE
    names = load_file(exported / "merged/unet/diffusion_pytorch_model.safetensors").keys()
    assert not [name for name in names if "lora" in name or "base_layer" in name]


def test_the_card_is_valid_and_says_the_figures(exported: Path, finished_run: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    evaluation = read_json(finished_run / "round-1/evaluation.json")
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("diffusers", "text-to-image")
    assert {"lora", "dora", "mitune"} <= set(data.tags)
    assert data.model_name == "mine"
    assert {result.metric_type: result.metric_value for result in data.eval_results} == {
        name: evaluation["after"]["all"][name] for name in ("mi", "elbo")
    }
    assert (
        data.eval_results[0].metric_args["difference"] == evaluation["difference"]["all"]["mi"]["difference"]
    )
    assert data.base_model is None  # a folder of one's own is nowhere on the Hub
    assert data.to_dict().get("base_model_relation") is None
    assert [entry["output"]["url"] for entry in data.widget] == [
        "pictures/after-000.png",
        "pictures/after-001.png",
    ]


def test_a_hostile_prompt_is_text_and_nothing_else(exported: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    body = card.text
    for markup in ("<script", "](javascript", "</td>", "`b`", "http://e.org", "&amp;", "‮"):
        assert markup not in body
    row = next(line for line in body.splitlines() if "alert" in line)
    assert row.count("|") == 4  # the cells of the table, no more
    told = [entry["text"] for entry in card.data.widget]
    assert HOSTILE.replace("\t", " ").replace("‮", "").strip() in told
    assert not [path for path in exported.rglob("*") if "script" in path.name]


def test_a_card_tells_of_real_pictures(exported: Path, run_copy: Path) -> None:
    """As ``select`` leaves it behind, in its mark and in the run's configuration."""
    assert (
        "trained by [MI-Tune](https://arxiv.org/abs/2405.20759) on the model's own pictures, chosen by"
        in ((exported / "README.md").read_text())
    )
    mark, config = run_copy / "round-1/done/select.json", run_copy / "config.yaml"
    figures = read_json(mark) | {"real": {"source": "/home/me/photos", "pictures": 7}}
    write_json(mark, digests.seal(figures))
    config.write_text(config.read_text().replace("  real: null", "  real: /home/me/photos"))
    assert main(["export", f"run={run_copy}"]) == 0
    text = (run_copy / "export/README.md").read_text()
    assert "own pictures and 7 real ones with their captions (photos), chosen by" in text
    assert "measures it: no reward model, no human raters." in text
    assert "no labels" not in text
    for name in ("README.md", "config.yaml", "provenance.json"):
        assert "/home/me" not in (run_copy / "export" / name).read_text()


def test_base_and_licence_come_from_the_base_models_card(
    run_copy: Path, tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "model"))
    (model / "README.md").write_text(
        "---\nlicense: other\nlicense_name: 'my: own'\nlicense_link: LICENSE\n---\n# x\n"
    )
    more = [f"model.path={model}", "export.base_model=someone/some-model", "export.name=a: b\\n<b>"]
    assert main(["export", f"run={run_copy}", *more]) == 0
    card = ModelCard.load(run_copy / "export/README.md")
    assert (card.data.base_model, card.data.base_model_relation) == ("someone/some-model", "adapter")
    assert (card.data.license, card.data.license_name, card.data.license_link) == (
        "other",
        "my: own",
        "LICENSE",
    )
    assert card.data.model_name == "a: b\\n<b>"
    assert 'from_pretrained("someone/some-model")' in card.text
    assert "<b>" not in card.text


def test_no_secret_and_no_folder_of_this_machine_is_told(
    exported: Path, run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "hf_" + "x" * 34
    monkeypatch.setenv("HF_TOKEN", token)
    assert main(["export", f"run={run_copy}", f"export.name=with {token}"]) == 0
    for folder in (exported, run_copy / "export"):
        for file in (*folder.glob("*.md"), *folder.glob("*.json"), *folder.glob("*.yaml")):
            assert token not in file.read_text()
            assert str(run_copy.parent) not in file.read_text()
    assert "/tmp" not in (exported / "config.yaml").read_text()


def test_provenance_names_run_round_model_and_adapter(exported: Path, finished_run: Path) -> None:
    found = read_json(exported / "provenance.json")
    assert (found["run"], found["round"], found["seed"]) == ("mine", 1, 0)
    assert found["model"] == read_json(finished_run / "summary.json")["model"]
    assert found["exported_by"]["torch"] == torch.__version__
    assert len(found["adapter_sha256"]) == 64


def test_a_published_training_set_does_not_say_where_pictures_lay(tmp_path: Path) -> None:
    import datasets

    from mitune.hub.folder import write_training_set
    from mitune.tasks import PictureRef

    digest = "0123456789abcdef" * 4
    places = ["/home/somebody/private  folder/a b.png", "C:\\home\\c.png", "plain.png", "/home/a\nb/d.png"]
    rows = {"text": ["x"] * 4, "picture": [str(PictureRef(place, digest)) for place in places]}
    write_training_set(tmp_path / "set", datasets.Dataset.from_dict(rows), "name", "model", {})
    (file,) = (tmp_path / "set/data").glob("*.parquet")
    found = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))["picture"]
    assert list(found) == [
        f"{digest}  a b.png",
        f"{digest}  c.png",
        f"{digest}  plain.png",
        f"{digest}  d.png",
    ]
    assert [PictureRef.parse(line).sha256 for line in found] == [digest] * 4


def test_the_training_set_is_a_dataset_repository(exported: Path, finished_run: Path) -> None:
    import datasets

    folder = exported.with_name("mine-dataset")
    found = datasets.load_dataset(
        "parquet",
        data_files=str(folder / "data/*.parquet"),
        cache_dir=str(exported.parent / "cache"),
        split="train",
    )
    own = datasets.load_from_disk(str(finished_run / "round-1/dataset"))
    assert found["text"][:] == own["text"][:]
    assert found.features["image"] == own.features["image"]
    assert list(found[0]["image"].getdata()) == list(own[0]["image"].getdata())
    assert DatasetCard.load(folder / "README.md").data.task_categories == ["text-to-image"]


def test_the_same_export_again_changes_no_byte(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", f"run={run_copy}"]
    assert main(command) == 0
    first = {path: path.read_bytes() for path in (run_copy / "export").rglob("*.*") if path.is_file()}
    assert main(command) == 0
    assert "there already" in capsys.readouterr().out
    shutil.rmtree(run_copy / "export")
    assert main(command) == 0
    assert {path: path.read_bytes() for path in first} == first
    assert main([*command, "export.pictures=1"]) == 0  # another export takes its place
    assert len(list((run_copy / "export/pictures").iterdir())) == 2


def test_what_an_export_did_not_write_is_not_replaced(
    run_copy: Path, tmp_path: Path, refused: Refused
) -> None:
    place = tmp_path / "home"
    place.mkdir()
    (place / "thesis.txt").write_text("mine")
    line = refused(["export", f"run={run_copy}", f"export.out={place}"])
    assert "was not written by mitune export" in line
    assert (place / "thesis.txt").read_text() == "mine"


def test_a_picture_outside_the_run_is_not_published(run_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes((run_copy / "round-1/pictures/before-000.png").read_bytes())
    path = run_copy / "round-1/evaluation.json"
    evaluation = json.loads(path.read_text())
    evaluation["examples"][0]["before"] = "../../secret.png"
    path.write_text(json.dumps(evaluation))
    mark = run_copy / "round-1/done/evaluate.json"
    noted = read_json(mark)
    noted[digests.FILES]["round-1/evaluation.json"] = digests.sha256(path)
    write_json(mark, digests.seal(noted))
    assert main(["export", f"run={run_copy}"]) == 0
    assert len(list((run_copy / "export/pictures").iterdir())) == 2


def test_settings_that_cannot_work(run_copy: Path, tmp_path: Path, refused: Refused) -> None:
    run = f"run={run_copy}"
    assert "export.round=3" in refused(["export", run, "export.round=3"])
    assert "holds no run" in refused(["export", f"run={tmp_path / 'nowhere'}"])
    assert "give run, model, export only" in refused(["export", run, "train.lr=1"])
    assert "give run, model, export only" in refused(["export", run, "experiment=mitune"])
    assert "export.push=name: give the owner" in refused(["export", run, "export.push=name"])
    assert "export.push=a/b c" in refused(["export", run, "export.push=a/b c"])
    assert "export.base_model" in refused(["export", run, "export.base_model=../x"])
    (run_copy / "round-1/done/train.json").unlink()
    assert "no trained adapter" in refused(["export", run])
    assert not (run_copy / "export").exists()
    (run_copy / "config.yaml").write_text("train: [")
    assert "config.yaml" in refused(["export", run])


@pytest.mark.parametrize("key", ["name", "run", "export.name", "prompts.source", "export.license"])
def test_nothing_of_the_environment_is_written_into_what_is_published(
    run_copy: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("SECRET_OF_MINE", "s3cret-v4lue")
    settings = OmegaConf.load(run_copy / "config.yaml")
    OmegaConf.update(settings, key, "${oc.env:SECRET_OF_MINE}")
    (run_copy / "config.yaml").write_text(OmegaConf.to_yaml(settings, resolve=False))
    out = tmp_path / "out"
    line = refused(["export", f"run={run_copy}", f"export.out={out}"])
    assert "s3cret-v4lue" not in line
    assert f"{key}=" in line or "config.yaml" in line
    assert not out.exists()
