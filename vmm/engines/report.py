"""An engine's counters as the JSON that `--stats` writes and the summary shows; docs/stats.md has the schema."""

from typing import Any

from bt.tables import CRITICAL_NAMES
from vmm.engines.engine import Engine


def stats_of(engine: Engine, wall_seconds: float) -> dict[str, Any]:
    """Everything that a run counted, JSON-able."""
    stats = engine.stats
    names = set(stats.inline_sites) | set(stats.callout_sites) & CRITICAL_NAMES
    return {
        "blocks": stats.blocks,
        "instructions_translated": stats.instructions,
        "critical": {
            name: {
                "inline_sites": stats.inline_sites[name],
                "callout_sites": stats.callout_sites[name],
                "callouts_retired": stats.callouts[name] + stats.host_code[name],
            }
            for name in sorted(names)
        },
        "callouts": dict(stats.callouts.most_common()),
        "host_code": dict(stats.host_code.most_common()),
        "exits": {**dict(stats.exits.most_common()), "callout": stats.callouts.total()},
        "interrupts": {str(vector): count for vector, count in sorted(stats.interrupts.items())},
        "exceptions": {str(vector): count for vector, count in sorted(stats.exceptions.items())},
        **engine.report(),
        "time": {"wall_s": round(wall_seconds, 4), "translate_s": round(stats.translate_seconds, 4)},
    }
