"""How a command line becomes a configuration: the Hydra groups of ``conf/``, then single keys."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mitune.config.checks import check
from mitune.config.keys import Config, leaves
from mitune.errors import UserError, nearest


def shipped_folder(name: str, sign: str) -> Path:
    """The folder ``name`` that comes with the package, known by the file ``sign`` in it: inside the installed package,
    or at the root of a checkout. Raises UserError where it is missing.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / name, package.parent / name):
        if (folder / sign).is_file():
            return folder
    raise UserError(f"the folder {name} is missing beside {package}; install mitune again")


def conf_folder() -> Path:
    """The folder of the Hydra groups."""
    return shipped_folder("conf", "config.yaml")


def groups() -> dict[str, list[str]]:
    """Every group and the names of its options."""
    folders = sorted(path for path in conf_folder().iterdir() if path.is_dir())
    return {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The resolved, validated and read-only configuration that ``overrides`` (``key=value``, ``group=option``) ask for.

    Raises UserError on one line: an unknown key, group option or value, a value of the wrong type, values that do not
    go together (k > M).
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    choices, values = _read_overrides(overrides)
    ConfigStore.instance().store(name="mitune_schema", node=Config)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = hydra_compose("config", overrides=[f"{group}={option}" for group, option in choices])
    except HydraException as error:  # our own files are at fault, or a group was given what it cannot take
        raise UserError(f"configuration: {_one_line(error)}") from error
    for name, text in values:
        _set(config, name, text)
    given = [name for name, _ in values]
    _drop_split(config, given)
    if "sampler.guidance" in given and "generate.guidance" not in given:
        # Who names a guidance means the candidates too, whatever the preset has.
        config.generate.guidance = None
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise UserError(f"configuration: {_one_line(error)}") from error
    check(config)
    OmegaConf.set_readonly(config, True)
    return config


def compose_saved(path: Path, overrides: Sequence[str], allowed: Sequence[str]) -> DictConfig:
    """The configuration saved at ``path`` with ``overrides`` set in it, for a stage that goes by what a run was.

    Keys that came later have their defaults. Raises UserError: unreadable, of another version, an override that is
    neither one of ``allowed`` nor in such a section.
    """
    choices, values = _read_overrides(overrides)
    for name in [*(group for group, _ in choices), *(name for name, _ in values)]:
        if name.partition(".")[0] not in allowed or name in dict(choices):
            raise UserError(
                f"{name}=: this stage goes by the run's own configuration ({path}); give {', '.join(allowed)} only"
            )
    try:
        config = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
        OmegaConf.resolve(config)
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UserError(
            f"{path} is not a configuration of this version of mitune ({_one_line(error)})"
        ) from error
    assert isinstance(config, DictConfig)
    for name, text in values:
        _set(config, name, text)
    check(config)
    OmegaConf.set_readonly(config, True)
    return config


def _drop_split(config: DictConfig, given: Sequence[str]) -> None:
    """A list of one's own has no splits: the preset's split does not apply to it; a table may have a column of them."""
    for section in (config.prompts, config.evaluate.prompts):
        prefix = "prompts" if section is config.prompts else "evaluate.prompts"
        named = f"{prefix}.source" in given and f"{prefix}.split" not in given
        if named and Path(section.source).suffix.lower() in (".txt", ".json"):
            section.split = None


# Short names of keys: ``mitune sample sampler=das reward=clip alpha=0.1``.
SHORT = {"reward": "search.reward", "alpha": "search.alpha"}


def _read_overrides(overrides: Sequence[str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Part the arguments into (group, option) and (key, value text); refuse what is neither."""
    options = groups()
    names = [name for name, _, _ in leaves()]
    choices, values = [], []
    for argument in overrides:
        name, equals, text = argument.partition("=")
        if not equals:
            raise UserError(
                f"'{argument}' is not understood: give key=value{nearest(name, [*names, *options])}"
            )
        name = name.strip().lstrip("+").replace("/", ".")
        name = SHORT.get(name, name)
        if name in options:
            wanted = [option.strip() for option in text.strip().strip("[]").split(",")]
            for option in wanted:
                if option not in options[name]:
                    path = (
                        f"; a folder or Hub id is given by {name}.{'path' if name == 'model' else 'source'}="
                        if name in ("model", "prompts")
                        else ""
                    )
                    raise UserError(
                        f"{name}={text}: there is no such option{nearest(option, options[name])};"
                        f" {name} is one of {', '.join(options[name])}{path}"
                    )
            if len(wanted) > 1 and name != "tracker":
                raise UserError(f"{name}={text}: give one option, of {', '.join(options[name])}")
            choices.append((name, text.strip()))
        elif name in names:
            values.append((name, text))
        else:
            raise UserError(
                f"there is no key '{name}'{_nearest_key(name, names, options)}; mitune run --help lists all keys"
            )
    return choices, values


def _nearest_key(name: str, names: Sequence[str], options: dict[str, list[str]]) -> str:
    """The nearest full key: by the whole name, or by its last part where the rest is missing or wrong."""
    inside = [full for full in names if full.startswith(f"{name}.")]
    if inside:
        return f", it is a group of keys: {', '.join(inside[:4])}{', …' if len(inside) > 4 else ''}"
    last = [full for full in names if full.rpartition(".")[2] == name.rpartition(".")[2]]
    if not last and "." not in name:
        ends = {full.rpartition(".")[2] for full in names}
        like = difflib.get_close_matches(name, sorted(ends), n=1, cutoff=0.75)
        last = [full for full in names if like and full.rpartition(".")[2] == like[0]]
    return nearest(name, last) or (
        f", did you mean '{last[0]}'?" if last else nearest(name, [*names, *options])
    )


def _set(config: DictConfig, name: str, text: str) -> None:
    """Set one key from the command line; its type decides how the text is read."""
    types = {full: type(default) for full, default, _ in leaves()}
    value: Any = text
    if types[name] is not str and not _is_text(config, name):
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(
                f"{name}={text}: not a value that can be read; lists are written [a,b]"
            ) from error
    elif text == "null" and types[name] is not str:
        value = None
    elif types[name] is str and not text.strip():
        raise UserError(f"{name}= is empty: give a value")
    if types[name] is list and isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    try:
        OmegaConf.update(config, name, value)
    except OmegaConfBaseException as error:
        raise UserError(f"{name}={text}: {_wrong_type(config, name)}") from error


def _node(config: DictConfig, name: str) -> Any:
    """The OmegaConf node of a key, which knows its type."""
    parent, _, last = name.rpartition(".")
    return (OmegaConf.select(config, parent) if parent else config)._get_node(last)


def _is_text(config: DictConfig, name: str) -> bool:
    """Whether the key holds text (or null): such a value is taken as it stands, paths with brackets and all."""
    return _node(config, name)._metadata.ref_type is str


def _wrong_type(config: DictConfig, name: str) -> str:
    metadata = _node(config, name)._metadata
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    optional = " or null" if metadata.optional else ""
    return f"this key takes {words.get(metadata.ref_type, 'a list, written [a,b]')}{optional}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
