"""How a command line becomes a configuration: the Hydra groups of ``conf/``, then single keys."""

from __future__ import annotations

import copy
import difflib
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mitune.config.keys import Config, keys, known_keys
from mitune.config.own_preset import spelled_out
from mitune.config.relations import check
from mitune.config.saved import read_saved
from mitune.config.values import parse
from mitune.data.settings import SUFFIXES, WORLD
from mitune.errors import UserError, closest, nearest, short
from mitune.reading import home, is_file
from mitune.settings import check_value
from mitune.stages.catalogue import ONCE, OPEN, STAGES, begun, covers


def shipped_folder(name: str, sign: str) -> Path:
    """Find the folder ``name`` that comes with the package, known by the file ``sign`` in it: inside the package,
    or at the root of a checkout. Raises UserError where it is missing.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / name, package.parent / name):
        if (folder / sign).is_file():
            return folder
    raise UserError(f"the folder {name} is missing beside {package}; install mitune again")


def conf_folder() -> Path:
    """Find the folder of the Hydra groups."""
    return shipped_folder("conf", "config.yaml")


@functools.cache
def groups() -> dict[str, list[str]]:
    """List every group and the names of its options."""
    folders = sorted(path for path in conf_folder().iterdir() if path.is_dir())
    return {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}


def compose(overrides: Sequence[str] = (), stage: str | None = None) -> DictConfig:
    """Give the resolved, validated and read-only configuration that ``overrides`` (``key=value``, ``group=option``) ask
    for; ``stage``: whose command it is, so that only what it reads has to go together.

    Where the run folder holds the configuration of a run, that is what the words change. Raises UserError on one line:
    an unknown key, group option or value, a value of the wrong type, values that do not go together (k > M), a
    configuration that cannot be read.
    """
    values = asked(overrides, stage)
    check(values, stage)
    known = keys()
    return changed(_bare(), {name: value for name, value in values.items() if value != known[name].default})


@functools.cache
def _bare() -> DictConfig:
    """Every key with its default; to be copied before it is changed."""
    return OmegaConf.structured(Config)


def changed(config: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """Give a read-only copy of a configuration in which keys have other values."""
    copied = copy.deepcopy(config)
    OmegaConf.set_readonly(copied, False)
    for name, value in values.items():
        OmegaConf.update(copied, name, value)
    OmegaConf.set_readonly(copied, True)
    return copied


def asked(overrides: Sequence[str] = (), stage: str | None = None) -> dict[str, Any]:
    """{full key: value} that ``overrides`` ask for, whether or not the values go together. Raises UserError."""
    overrides, own = spelled_out(overrides, groups())
    choices, given = _read_overrides(overrides)
    preset = "experiment" in choices
    values = _composed(tuple(f"{group}={option}" for group, option in choices.items())) | own | given
    _name_folder(values)
    saved = home(values["run"]) / "config.yaml"
    inherits = bool(stage and STAGES[stage].inherits)
    if stage and inherits:
        _check_inherits(stage, saved, [*choices, *given])
    # A folder that nobody named is not taken for the run that is meant, and a job of a sweep is what its words say.
    named = "run" in given and "sweep.share" not in given and is_file(saved)
    if inherits or (named and any(begun(saved.parent))):
        before = read_saved(saved)
        if preset and values["name"] != before.get("name") and "name" not in given:
            # Another preset is meant whole; what it leaves open, the run says.
            values |= {name: before.get(name) for name in OPEN if values[name] is None}
        else:
            values = _continued(before, choices) | own | given | {"run": values["run"]}
    _drop_split(values, {*own, *given})
    _drop_oracle(values, {*own, *given})
    if "sampler.guidance" in given and "generate.guidance" not in given:
        # Who names a guidance means the candidates too, whatever the preset has.
        values["generate.guidance"] = None
    return values


def kept(words: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """{key: value} of what a command's ``values`` have from the folder of its run, and not by a preset that ``words``
    name: what a user may have forgotten. Empty where they name none, since it is all from the folder then."""
    choices = [word.partition("=")[0].strip() for word in words]
    if not {"run", "experiment"} <= set(choices):
        return {}
    alone = asked([word for word in words if not word.startswith("run=")])
    return {
        name: values[name]
        for name, value in alone.items()
        if value != values[name] and name not in ("run", "name") and not covers(ONCE, name)
    }


def _check_inherits(stage: str, saved: Path, names: Sequence[str]) -> None:
    """Raise UserError where a stage that goes by what a run was is told other things, or there is no run."""
    allowed = STAGES[stage].inherits.split()
    if not is_file(saved):
        raise UserError(f"{saved.parent} holds no run (no config.yaml); give the folder of one with run=")
    for name in names:
        if name.partition(".")[0] not in allowed or name in groups():
            raise UserError(
                f"{name}=: this stage goes by the run's own configuration ({saved}); give {', '.join(allowed)} only"
            )


def _continued(saved: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, Any]:
    """What a run's configuration becomes by the options that a later command chooses.

    A preset sets all that it mentions. Another option sets what it mentions, and what the option before it had set
    goes. Keys that came since the run was made have their defaults, and so have those of one command alone.
    """
    fresh = {name: one.default for name, one in keys().items()}
    values = fresh | {name: value for name, value in saved.items() if not covers(ONCE, name)}
    if "experiment" in choices:
        return values | _mentioned(tuple(f"{group}={option}" for group, option in choices.items()))
    for group, option in choices.items():
        for other in groups()[group]:
            own = _own(group, other)
            if own and all(values[name] == value for name, value in own.items()):
                values |= {name: fresh[name] for name in own}
        values |= _own(group, option)
    return values


def _own(group: str, option: str) -> dict[str, Any]:
    """{full key: value} that the files of a group's option, or of a list of them, say."""
    values: dict[str, Any] = {}
    for name in option.strip("[]").split(","):
        path = conf_folder() / group / f"{name}.yaml"
        said: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False) or {}
        whole = "@package _global_" in path.read_text(encoding="utf-8").partition("\n")[0]
        values |= known_keys(said if whole else {group: said})
    return values


def _name_folder(values: dict[str, Any]) -> None:
    """Where no run folder was named, the configuration's name makes one."""
    if values["run"] == keys()["run"].default:
        values["run"] = values["run"].replace("${name}", values["name"])


@functools.lru_cache(maxsize=256)
def _hydra(choices: tuple[str, ...], schema: bool) -> Mapping[str, Any]:
    """What the groups say, as nested values; ``schema``: with the defaults of all keys."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    ConfigStore.instance().store(name="mitune_schema", node=Config if schema else {})
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = hydra_compose("config", overrides=list(choices))
    except (HydraException, OmegaConfBaseException) as error:
        # Our own files are at fault, or a group was given what it cannot take.
        raise UserError(f"configuration: {' '.join(str(error).split())}") from error
    finally:
        ConfigStore.instance().store(name="mitune_schema", node=Config)
    return OmegaConf.to_container(config, resolve=False)  # type: ignore[return-value]


def _composed(choices: tuple[str, ...]) -> dict[str, Any]:
    """{full key: value} of every key, as the groups say or by default."""
    return copy.deepcopy(known_keys(_hydra(choices, True)))


def _mentioned(choices: tuple[str, ...]) -> dict[str, Any]:
    """{full key: value} of the keys that the files of the groups mention."""
    return copy.deepcopy(known_keys(_hydra(choices, False)))


def _drop_oracle(values: dict[str, Any], given: Collection[str]) -> None:
    """A preset of the embedded world has its oracle judge: other prompts than its own it cannot, so it is left out
    where the user asks for such prompts, and does not ask for the oracle by name.
    """
    for source, lists in _JUDGED.items():
        if source not in given or values[source] == WORLD:
            continue
        for name in lists:
            others = [score for score in values[name] if score != "oracle"]
            if name not in given and others:
                values[name] = others


def _drop_split(values: dict[str, Any], given: Collection[str]) -> None:
    """The preset's split is that of its own source: of a file of one's own its columns and its name say what is held
    out, and where nothing says it all of it is meant.
    """
    for prefix in ("prompts", "evaluate.prompts"):
        named = f"{prefix}.source" in given and f"{prefix}.split" not in given
        source = values[f"{prefix}.source"]
        if named and source is not None and Path(source).suffix.lower() in SUFFIXES:  # others are folders
            values[f"{prefix}.split"] = None


# Short names of keys: ``mitune sample sampler=das reward=clip alpha=0.1``.
SHORT = {"reward": "search.reward", "alpha": "search.alpha", "benchmark": "benchmark.name"}


# Whose lists of scores hold the oracle for the sake of which prompts.
_JUDGED = {
    "prompts.source": ("scorers", "sample.scorers", "agree.scorers"),
    "evaluate.prompts.source": ("evaluate.scorers",),
}


def _read_overrides(overrides: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Part the arguments into {group: option} and {key: value}; refuse what is neither, and what is out of bounds."""
    options, known = groups(), keys()
    choices: dict[str, str] = {}
    values: dict[str, Any] = {}
    for argument in overrides:
        name, equals, text = argument.partition("=")
        if not equals:
            raise UserError(
                f"'{short(argument, 80)}' is not understood: give key=value{nearest(name, [*known, *options])}"
            )
        name = name.strip().lstrip("+").replace("/", ".")
        name = SHORT.get(name, name)
        if name in options:
            choices.pop(name, None)  # of two words the later counts
            choices[name] = _option(name, text, options[name])
        elif name in known:
            values[name] = parse(known[name], text)
            check_value(known[name], values[name])
        else:
            raise UserError(
                f"there is no key '{short(name, 80)}'{_nearest_key(name, list(known), options)};"
                " mitune run --help --all lists the keys"
            )
    return choices, values


def _option(group: str, text: str, options: Sequence[str]) -> str:
    """The option that ``group=text`` names, or the list of several trackers, as Hydra takes it."""
    listed = text.strip()
    if listed.startswith("[") and listed.endswith("]"):
        listed = listed[1:-1]
    wanted = list(dict.fromkeys(option.strip() for option in listed.split(",")))
    for option in wanted:
        if option not in options:
            path = (
                f"; a folder or Hub id is given by {group}.{'path' if group == 'model' else 'source'}="
                if group in ("model", "prompts")
                else ""
            )
            raise UserError(
                f"{group}={short(text, 80)}: there is no such option{nearest(option, options)};"
                f" {group} is one of {', '.join(options)}{path}"
            )
    if len(wanted) > 1 and group != "tracker":
        raise UserError(f"{group}={short(text, 80)}: give one option, of {', '.join(options)}")
    return wanted[0] if len(wanted) == 1 else f"[{','.join(wanted)}]"


def _nearest_key(name: str, names: Sequence[str], options: dict[str, list[str]]) -> str:
    """The nearest full key: by the whole name, or by its last part where the rest is missing or wrong."""
    if len(name) > 200:
        return ""
    inside = [full for full in names if full.startswith(f"{name}.")]
    if inside:
        return f", it is a group of keys: {', '.join(inside[:4])}{', …' if len(inside) > 4 else ''}"
    last = [full for full in names if full.rpartition(".")[2] == name.rpartition(".")[2]]
    if not last and "." not in name:
        ends = sorted({full.rpartition(".")[2] for full in names})
        like = closest(name, [*ends, *options], cutoff=0.75)
        last = [full for full in names if full.rpartition(".")[2] == like]
    if last:
        return f", did you mean '{difflib.get_close_matches(name, last, n=1, cutoff=0)[0]}'?"
    return nearest(name, [*names, *options])
