"""A benchmark's results as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mpafer_jax.evaluation.table import markdown
from tests.bench import measures, timing
from tests.bench.measure import Results, Start
from tests.bench.timing import Spread

TITLES = {
    "ours": "ours",
    "ours_plain_products": "ours without the CPU's bfloat16 unit",
    "plain": "plain PyTorch",
    "compiled": "torch.compile",
}
_REFERENCE = "plain"


def render(results: Results) -> str:
    setting = results.setting
    parts = [
        f"CLIP {setting.clip}, {setting.precision}, batch {setting.batch_size}, {setting.num_classes} classes, "
        f"{setting.num_visual} visual prompts a layer, on {results.device}"
        + (f" with {results.bfloat16_unit}." if results.bfloat16_unit else "."),
        _times(results),
    ]
    if results.flops:
        parts.append(_rates(results))
    if any(kinds["cold"] for kinds in results.starts.values()):
        parts.append(_starts(results.starts))
    return "\n".join(parts)


def _times(results: Results) -> str:
    """Seconds by measure and contender, and our speed-up."""
    names = list(next(iter(results.seconds.values())))
    others = [name for name in names if name != "ours"] if "ours" in names else []
    header = ["seconds, median (least to greatest)", *(TITLES[name] for name in names)]
    header += [f"{TITLES[name]} / ours" for name in others]
    lines: list[list[str]] = []
    for measure, by_name in results.seconds.items():
        line = [measures.TITLES[measure], *(seconds(Spread.of(by_name[name])) for name in names)]
        line += [_factor(timing.ratios(by_name[name], by_name["ours"])) for name in others]
        lines.append(line)
    return markdown(header, lines)


def _rates(results: Results) -> str:
    """Our GFLOP/s, also relative to our matrix product in the same turns."""
    product = results.seconds.get(measures.PRODUCT)
    lines: list[list[str]] = []
    for measure, flops in results.flops.items():
        if measure not in results.seconds:
            continue
        ours = results.seconds[measure]["ours"]
        rate = Spread.of([flops / 1e9 / second for second in ours])
        line = [measures.TITLES[measure], f"{flops / 1e9:.0f}", f"{rate.median:.0f}"]
        if product is not None:
            bare = Spread.of([results.flops[measures.PRODUCT] / 1e9 / second for second in product["ours"]])
            line.append(f"{100 * rate.median / bare.median:.0f}%")
        lines.append(line)
    header = ["ours", "GFLOP needed", "GFLOP/s", "of the bare product's"]
    return markdown(header[: len(lines[0])], lines) if lines else ""


def _starts(starts: Mapping[str, Mapping[str, Sequence[Start]]]) -> str:
    lines: list[list[str]] = []
    for name, kinds in starts.items():
        for kind, attempts in kinds.items():
            if not attempts:
                continue
            lines.append(
                [
                    f"{TITLES[name]}, {kind}",
                    _median([start.imported for start in attempts]),
                    _median([start.ready - start.imported for start in attempts]),
                    _median([start.compile for start in attempts]),
                    _median([start.first_step - start.imported for start in attempts]),
                    _median([start.first_step for start in attempts]),
                    f"{Spread.of([start.peak_memory for start in attempts]).median / 2**20:.0f}",
                ]
            )
    header = [
        "start, seconds",
        "imports",
        "loading",
        "compiling",
        "imports' end to first step",
        "start to first step",
        "peak memory, MiB",
    ]
    return markdown(header, lines)


def _median(values: Sequence[float]) -> str:
    return f"{Spread.of(values).median:.1f}"


def _factor(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def seconds(spread: Spread) -> str:
    """Median with three digits, the others with as many decimals."""
    decimals = max(0, 2 - math.floor(math.log10(spread.median)))
    return f"{spread.median:.{decimals}f} ({spread.low:.{decimals}f} to {spread.high:.{decimals}f})"
