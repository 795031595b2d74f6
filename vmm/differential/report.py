"""A campaign's report, as JSON and as Markdown."""

from typing import Any, Final

from vmm.differential.campaign import Campaign
from vmm.differential.explanations import EXPLANATIONS
from vmm.differential.forms import MNEMONICS, forms
from vmm.differential.modes import MODES

_RAREST: Final = 10


def command(campaign: Campaign) -> str:
    """What repeats it."""
    source, plan = campaign.plan.source, campaign.plan
    modes = "" if source.modes == tuple(MODES) else f" --modes {','.join(source.modes)}"
    first = f" --first {campaign.first}" if campaign.first else ""
    return (
        f"vmm differential --programs {campaign.programs} --seed {source.seed}{first}{modes}"
        f" --engine {','.join(plan.engines)} --against {plan.against}"
    )


def to_json(campaign: Campaign) -> dict[str, Any]:
    """Everything, JSON-able."""
    tally, source = campaign.tally, campaign.plan.source
    return {
        "command": command(campaign),
        "seed": source.seed,
        "engines": list(campaign.plan.engines),
        "against": campaign.plan.against,
        "total": tally.total,
        "faulting_share": round(tally.share(tally.faulting), 4),
        "interrupted_share": round(tally.share(tally.interrupted), 4),
        "unexplained": len(tally.failures),
        "least_covered": [{"mnemonic": name, "mode": mode, "count": n} for n, name, mode in _rarest(campaign)],
        "without_encoding": {mode: sorted(_without_encoding(mode)) for mode in source.modes},
        **tally.to_json(),
    }


def _rarest(campaign: Campaign) -> list[tuple[int, str, str]]:
    """(count, mnemonic, mode), the least covered first."""
    counts = campaign.tally.instructions
    cells = ((counts[f"{name}/{mode}"], name, mode) for mode in campaign.plan.source.modes for name in _legal(mode))
    return sorted(cells)


def _legal(mode: str) -> frozenset[str]:
    return frozenset(forms(MODES[mode].code32))


def _without_encoding(mode: str) -> frozenset[str]:
    return MNEMONICS - _legal(mode)


def to_markdown(campaign: Campaign) -> str:
    """For people: totals, modes, coverage, explanations, failures."""
    tally, plan = campaign.tally, campaign.plan
    return "\n".join(
        [
            f"# Differential run: {', '.join(plan.engines)} against {plan.against}",
            "",
            f"`{command(campaign)}`",
            "",
            f"{_amount(campaign)} programs, {tally.share(tally.faulting):.1%} of them with exceptions, "
            f"{tally.share(tally.interrupted):.1%} with hardware interrupts. "
            f"{sum(tally.explained.values())} explained differences, {len(tally.failures)} unexplained.",
            "",
            "| mode | programs | with exceptions | with interrupts | mnemonics | least often |",
            "| --- | ---: | ---: | ---: | ---: | --- |",
            *_mode_rows(campaign),
            "",
            "Endings: " + _listed(tally.endings) + ".",
            "",
            "Vectors: " + _listed(tally.vectors) + ".",
            "",
            *_explained_rows(campaign),
            *_failure_rows(campaign),
        ]
    )


def _listed(counts: Any) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "none"


def _amount(campaign: Campaign) -> str:
    done = campaign.tally.total
    return str(done) if done == campaign.programs else f"Interrupted: {done} of {campaign.programs}"


def _mode_rows(campaign: Campaign) -> list[str]:
    tally, rarest, rows = campaign.tally, _rarest(campaign), []
    for mode in campaign.plan.source.modes:
        count, name = min((n, name) for n, name, where in rarest if where == mode)
        rows.append(
            f"| {mode} | {tally.programs[mode]} | {tally.faulting[mode]} | {tally.interrupted[mode]} "
            f"| {len(_legal(mode))} | {name} {count} |"
        )
    return rows


def _explained_rows(campaign: Campaign) -> list[str]:
    explained = campaign.tally.explained
    if not explained:
        return []
    rows = [
        "| engine | explained by | the rule that is broken | source | programs |",
        "| --- | --- | --- | --- | ---: |",
    ]
    for key, count in sorted(explained.items()):
        engine, name = key.split("/", 1)
        flaw = EXPLANATIONS[name]
        rows.append(f"| {engine} | {name} | {flaw.rule} | {flaw.source} | {count} |")
    return [*rows, ""]


def _failure_rows(campaign: Campaign) -> list[str]:
    failures = campaign.tally.failures
    if not failures:
        return ["No difference is unexplained.", ""]
    rows = [f"## {len(failures)} unexplained", ""]
    for failure in sorted(failures, key=lambda each: each["number"])[:_RAREST]:
        program = failure["program"]
        rows += [
            f"### Program {failure['number']}, {failure['engine']}: {program['mode']}, paging {program['paging']}",
            "",
        ]
        rows += [f"* {text}" for text in failure["differences"]]
        rows += ["", "```", *program["listing"], "```", ""]
    return rows
