"""Tables of the documentation that come from records of measurements; :mod:`benchmarks.docs` writes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.records import interval, record, written

_QUALITY = "benchmarks/results/quality-{}.json"
_OWN = "z(contrast)+0.5*z(elbo)"
_WHO = {"random": "chance (control)", "oracle": "the oracle (control)"}
# (file, arm, what the preset trains on)
_FULL = "own pictures, `nft`"
_REAL = "real pictures, `mse`"
_BOTH = "own pictures by `nft`, and real ones"
PRESETS = (
    ("shapes_full", _OWN, _FULL),
    ("shapes_full", "random", ""),
    ("shapes_full-oracle", "oracle", ""),
    ("shapes_real", _OWN, _REAL),
    ("shapes_real", "random", ""),
    ("shapes_real", "oracle", ""),
    ("shapes_both", _OWN, _BOTH),
    ("shapes_both", "random", ""),
)
OTHERS = (
    ("shapes", "contrast + elbo", "the demo as it was: candidates by 20 steps of `ddim` at guidance 4"),
    ("shapes", "random", ""),
    ("shapes", "oracle", ""),
    ("shapes-guidance-1.5", "contrast", "`shapes_attention`: candidates at guidance 1.5, attention only"),
    ("shapes-guidance-1.5", "random", ""),
    ("shapes-guidance-1.5", "oracle", ""),
    ("shapes_flow", "contrast", "`shapes_flow`: the same on a small Stable Diffusion 3"),
    ("shapes_flow", "random", ""),
    ("shapes_flow-fresh", "contrast", "`shapes_flow`, judged on 720 other pictures"),
    ("shapes_flow-fresh", "random", ""),
    ("shapes_paper", "mi", "`shapes_paper`: 30 prompts, the paper's settings"),
)


def markdown(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a Markdown table."""
    heading = list(heading)
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def measured(value: float, ci95: list[float], spec: str = "+.3f") -> str:
    """Write a figure with its 95 % interval."""
    return f"{written(value, spec)} {interval(ci95, spec)}"


def _round(name: str, arm: str) -> dict[str, Any]:
    return record(_QUALITY.format(name))["arms"][arm]["rounds"][0]


def gain(name: str, arm: str) -> list[str]:
    """Give before, after and paired difference of an arm's first round, by the oracle."""
    found = _round(name, arm)["difference"]["oracle"]
    difference = measured(found["difference"], found["ci95"])
    return [written(found["before"], ".3f"), written(found["after"], ".3f"), difference]


def exactly(found: dict[str, Any]) -> str:
    """Give how many pictures of a round are right in everything, before and after."""
    exact = found["difference"]["exact"]
    return f"{written(exact['before'], '.0f%')} → {written(exact['after'], '.0f%')} %"


def _who(name: str, arm: str, up: str) -> str:
    return f"[{_WHO.get(arm, 'the model’s own scores')}]({up}benchmarks/results/quality-{name}.md)"


def short_presets() -> str:
    """Write what the README shows: own choice of each preset, and the controls of the first."""
    plain = {
        _FULL: "own pictures, towards the good and away from the bad (`nft`)",
        _REAL: "the best of 4,000 real pictures with captions (`mse`)",
    }
    rows = [
        [plain.get(what, "the same"), _WHO.get(arm, "the model’s own scores"), *gain(name, arm)]
        for name, arm, what in PRESETS[:4]
    ]
    return markdown(["trained on", "chosen by", "before", "after", "difference (95 % interval)"], rows)


def presets() -> str:
    """Write the presets with both controls, as they were judged on 1,440 pictures."""
    rows = []
    for name, arm, what in PRESETS:
        found = _round(name, arm)
        fidelity = found["fidelity"]
        worst = min(found["categories"].items(), key=lambda item: item[1]["difference"])
        above = found.get("above_random")
        rows.append(
            [
                f"`{name}`: {what}" if what else "", _who(name, arm, "../"), *gain(name, arm),
                measured(above["value"], above["ci95"]) if above else "",
                exactly(found),
                f"{worst[0].replace('_', '-')} {written(worst[1]['difference'], '+.3f')}",
                written(found["diversity"]["ratio"], ".2f"),
                f"{written(fidelity['before'], '.3f')} → {written(fidelity['after'], '.3f')}",
            ]
        )  # fmt: skip
    heading = [
        "preset", "chosen by", "before", "after", "difference (95 %)", "above chance", "exactly right",
        "worst category", "diversity", "distance to the renderer",
    ]  # fmt: skip
    return markdown(heading, rows)


def other_presets() -> str:
    """Write the presets that were judged otherwise than on 1,440 pictures, with their numbers of pictures."""
    rows = []
    for name, arm, what in OTHERS:
        found = _round(name, arm)
        diversity, pictures = found["diversity"]["ratio"], found["before"]["n"]
        rows.append(
            [
                what or "the same", _who(name, arm, "../"), *gain(name, arm), exactly(found),
                written(diversity, ".2f"), str(pictures),
            ]
        )  # fmt: skip
    heading = [
        "preset", "chosen by", "before", "after", "difference (95 %)", "exactly right", "diversity", "pictures",
    ]  # fmt: skip
    return markdown(heading, rows)


def study() -> str:
    """Write the study of three seeds."""
    names = {
        "own alone": "own pictures, `nft` by their scores",
        "own alone, mse": "own pictures, `mse` on the best four",
        "real alone": "the best 900 of 2,000 real pictures, `mse`",
    }
    rows = []
    by_arm = {(row["arm"], row["role"]): row for row in record("benchmarks/recipe/results/real.json")["rows"]}
    for arm, what in names.items():
        for role, who in {
            "own": "the model’s own scores",
            "random": "chance",
            "oracle": "the oracle",
        }.items():
            row = by_arm[arm, role]
            above, fidelity = row.get("above_random"), [one["after"] for one in row["fidelity"]]
            rows.append(
                [
                    what if role == "own" else "", who,
                    measured(row["gain"]["value"], row["gain"]["ci95"]),
                    measured(above["value"], above["ci95"]) if above else "",
                    written(min(row["categories"].values()), "+.3f"),
                    written(sum(fidelity) / len(fidelity), ".3f"), f"{written(row['forwards'], '.0fk')} k",
                ]
            )  # fmt: skip
    heading = [
        "trained on",
        "chosen by",
        "held-out",
        "above chance",
        "worst category",
        "fidelity",
        "evaluations",
    ]
    return markdown(heading, rows)


def agreement() -> str:
    """Write how well each score ranks the candidates of a prompt, in three pools."""
    pools = {
        name: record(f"benchmarks/agreement/results/{name}.json")["scores"]
        for name in ("unguided", "guided", "strongly-guided")
    }
    rows = [
        [
            f"`{score}`", f"{found['forwards']:.0f}",
            *(measured(pool[score]["tau"], pool[score]["tau_ci95"], "+.2f") for pool in pools.values()),
            written(found["share_of_room"], ".2f"),
        ]
        for score, found in pools["guided"].items()
        if score != "oracle"
    ]  # fmt: skip
    heading = [
        "score", "evaluations a candidate", "τ, no guidance", "τ, guidance 1.5", "τ, guidance 5",
        "of the best possible gain, at 1.5",
    ]  # fmt: skip
    return markdown(heading, rows)


def grounding() -> str:
    """Write how well attention ranks the candidates of held-out prompts, in two pools."""
    pools = {
        name: record(f"benchmarks/agreement/results/{name}.json")["scores"]
        for name in ("grounding-1.5", "grounding-3")
    }
    rows = [
        [
            f"`{score}`", f"{found['forwards']:.0f}",
            *(measured(pool[score]["tau"], pool[score]["tau_ci95"], "+.2f") for pool in pools.values()),
            *(written(pool[score]["share_of_room"], ".2f") for pool in pools.values()),
        ]
        for score, found in pools["grounding-1.5"].items()
        if score != "oracle"
    ]  # fmt: skip
    heading = [
        "score", "evaluations a candidate", "τ, guidance 1.5", "τ, guidance 3", "of the best possible gain, at 1.5",
        "at 3",
    ]  # fmt: skip
    return markdown(heading, rows)


def pixels() -> str:
    """Write how well each kind of heatmap finds the objects of fresh scenes of the embedded world, in points."""
    unet, flow = (
        record("benchmarks/results/pixels.json")["models"][name]["rows"] for name in ("shapes", "shapes_flow")
    )
    rows = [
        [
            name,
            f"{found['forwards']:.0f}",
            *(measured(own[name]["mean"], own[name]["ci95"], ".1f") for own in (unet, flow)),
        ]
        for name, found in unet.items()
    ]
    return markdown(["heatmap", "evaluations a picture", "object IoU, UNet", "object IoU, flow"], rows)


def steering() -> str:
    """Write what steering did on the embedded world."""
    names = {
        "base:1": "plain", "best:8": "best of 8 by the CLIP", "guidance:8@0.1": "gradient guidance",
        "das:8@0.03": "DAS with the gradient", "bootstrap:8@0.03": "DAS without a gradient",
        "llr:8@1": "DAS, reward `llr`",
    }  # fmt: skip
    methods = {row["method"]: row for row in record("benchmarks/results/steering_pictures.json")["methods"]}
    rows = []
    for method, what in names.items():
        row = methods[method]
        over = None if method == "best:8" else row["oracle_over_best"]
        rows.append(
            [
                what, written(row["rows"], ".0f"), written(row["seconds"], ".2f"), written(row["clip"]["mean"], ".3f"),
                written(row["oracle"]["mean"], ".3f"),
                measured(over["mean"], over["ci95"]) if over else "",
            ]
        )  # fmt: skip
    heading = ["method", "evaluations a picture", "seconds", "CLIP", "oracle", "oracle, less best of 8"]
    return markdown(heading, rows)


def inversion() -> str:
    """Write what each arm of the study of Referee Can Play came to."""
    study = record("benchmarks/results/inversion.json")
    rows = []
    for row in [*study["arms"], *study["best"]]:
        others = [
            measured(row[key]["mean"], row[key]["ci95"]) if key in row else ""
            for key in ("oracle_over_guidance", "oracle_over_distillation", "oracle_over_best")
        ]
        if row["arm"] == "guidance 4":
            others = ["", "", ""]
        elif row["arm"] == "distillation alone":
            others[1] = ""  # less itself
        rows.append(
            [
                row["arm"], written(row["seconds"], ".2f"), written(row["clip"]["mean"], ".3f"),
                written(row["oracle"]["mean"], ".3f"), *others,
            ]
        )  # fmt: skip
    heading = ["pictures", "seconds", "CLIP", "oracle", "less guidance 4", "less distillation alone"]
    return markdown([*heading, "less best of N in as many seconds"], rows)


def balance() -> str:
    """Write what each way to balance phrases came to."""
    arms = record("benchmarks/results/balance.json")["arms"]
    rows = []
    for name, arm in arms.items():
        differences = [
            measured(arm[key]["mean"], arm[key]["ci95"]) if key in arm else ""
            for key in ("less_plain", "less_uniform")
        ]
        oracle = [written(arm["oracle"]["mean"], ".3f"), written(arm["exact"], ".0f%") + " %"]
        rows.append([_code(name), *oracle, *differences, written(arm["rows"], ".0f")])
    return markdown(["", "oracle", "exact", "less plain", "less `uniform`", "network rows a picture"], rows)


def balance_categories() -> str:
    """Write the differences from plain pictures by category."""
    arms = {
        name: arm["less_plain"]["categories"]
        for name, arm in record("benchmarks/results/balance.json")["arms"].items()
        if "less_plain" in arm
    }
    names = next(iter(arms.values()))
    rows = [
        [name, *(measured(own[name]["mean"], own[name]["ci95"]) for own in arms.values())] for name in names
    ]
    return markdown(["category", *map(_code, arms)], rows)


def _code(name: str) -> str:
    return f"`{name}`" if name.isidentifier() and name != "plain" else name


def ratios(name: str) -> str:
    """Write a benchmark's ratios of times, ours over theirs."""
    rows = []
    for one in record(f"benchmarks/results/{name}.json")["comparisons"]:
        ratio = one["ratio"]
        rows.append([one["name"], measured(ratio["median"], ratio["ci95"], ".2f")])
    return markdown(["what", "ratio of times (95 %)"], rows)


_SCALE = "benchmarks/results/scale.json"
_WORKS = {
    "start": "start or restart: which units are done?",
    "end": "end of `generate`: what they cost, and the mark",
    "select": "`select` chooses, from the whole table",
    "report": "`report`",
}


def scale_works() -> str:
    """Write what each piece of work takes at a million candidates; before and now, where both were measured."""
    works = record(_SCALE)["works"]
    heading = ["", "tree", "seconds", "memory above the imports", "opens", "stats", "changes"]
    rows = []
    for name, found in works.items():
        for tree in ("old", "new"):
            if tree not in found:
                continue
            took = found[tree]
            first = tree == "old" or len(found) == 1
            counts = took.get("operations", {})
            rows.append(
                [
                    _WORKS.get(name, name).replace("evaluate,", "`evaluate`,") if first else "",
                    {"old": "before", "new": "now"}[tree],
                    written(took["seconds"]["median"], ".1f"),
                    f"{written(took['mib']['median'], ',.0f')} MiB",
                    *(
                        f"{counts[kind]:,}" if kind in counts else ""
                        for kind in ("opens", "stats", "changes")
                    ),
                ]
            )
    return markdown(heading, rows)


def scale_files() -> str:
    """Write how large the files of the simulated run are."""
    tree = record(_SCALE)
    files, settings = tree["files"], tree["settings"]
    page = tree["works"]["report"]["new"]["bytes"]["median"]
    rows = [
        ["prompts × candidates", f"{settings['prompts']:,} × {settings['candidates']}"],
        ["units of so many rows", f"{files['units']:,} of {settings['rows_per_unit']}"],
        ["table of a unit", f"{files['table_bytes'] / 1000:.1f} KB"],
        ["latents of a unit (two of its candidates a prompt)", f"{files['latents_bytes'] / 1e6:.2f} MB"],
        ["note of a unit: cost and digests", f"{files['note_bytes'] / 1000:.1f} KB"],
        ["the whole folder", f"{files['all_bytes'] / 1e9:.2f} GB"],
        ["the page of the report", f"{page / 1e6:.2f} MB"],
    ]
    return markdown(["", "measured"], rows)
