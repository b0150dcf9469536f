"""A report as text for a terminal. Columns that are 0 throughout are left out; no line is wider than the terminal."""

from typing import Any

from tether.evaluation.report import (
    columns_of,
    has_reasoning,
    off_road_starts,
    reasoning_table,
    sample,
    signed,
    with_interval,
)

GAP = "  "


def show(report: dict[str, Any], width: int) -> str:
    """The text of a report, of `report.json`.

    Args: width: of a line, in characters; a line is wider only where one column and the policies' names need it.
    """
    parts = []
    for judge, summary in report["judges"].items():
        over = sample(next(iter(summary["policies"].values()))["score"])
        seed = report["provenance"]["seed"]
        parts += [f"{judge}: {over}, seed {seed}, mean [95 % bootstrap interval]", *policy_blocks(summary, width)]
        parts += [off_road_starts(summary), reasoning_table(summary) if has_reasoning(summary) else ""]
    parts += ["\n".join(map(event_line, report["events"])), report["headline"]]
    return "\n\n".join(filter(None, parts))


def policy_blocks(summary: dict[str, Any], width: int) -> list[str]:
    """The table of all policies, split into blocks of columns that fit the width, and the columns that are 0."""
    policies, paired = summary["policies"], summary["paired"]
    everywhere = [*policies.values(), *paired.values()]
    columns = {name: title for name, title in columns_of(summary).items() if any(map(nonzero, of(everywhere, name)))}
    names = column("policy", [*policies, *paired])
    cells = [
        column(title, [*map(with_interval, of(policies.values(), name)), *map(signed, of(paired.values(), name))])
        for name, title in columns.items()
    ]
    zero = [title for name, title in columns_of(summary).items() if name not in columns]
    return blocks(names, cells, width) + ([f"0 throughout: {', '.join(zero)}"] if zero else [])


def of(metrics: Any, name: str) -> list[dict]:
    """The interval of one metric, of each."""
    return [one[name] for one in metrics]


def nonzero(interval: dict) -> bool:
    """Whether the mean or an end of the interval differs from 0."""
    return any(interval[name] for name in ("mean", "low", "high"))


def column(title: str, cells: list[str]) -> list[str]:
    """Title and cells, padded to one width."""
    wide = max(map(len, [title, *cells]))
    return [f"{cell:<{wide}}" for cell in (title, *cells)]


def blocks(names: list[str], cells: list[list[str]], width: int) -> list[str]:
    """Tables of the names and as many columns as fit into the width, at least one."""
    tables, left = [], list(cells)
    while left:
        block = [names]
        while left and (len(block) == 1 or sum(len(c[0]) + len(GAP) for c in (*block, left[0])) <= width):
            block.append(left.pop(0))
        tables.append("\n".join(GAP.join(row).rstrip() for row in zip(*block, strict=True)))
    return tables


def event_line(event: dict[str, Any]) -> str:
    """One line about an event: policy, scene, record, event, time and cause."""
    where = f"{event['scenario_id']}, record {event['record']}"
    return f"{event['policy']}: {where}: {event['event']} at {event['time_s']} s: {event['cause']}"
