"""The style of a run's page: light and dark, and boxes that hide kinds of lines."""

from __future__ import annotations

from typing import Final

__all__ = ["STYLE"]

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2128; --paper: #fff; --dim: #626a73; --band: #fff3d6; --bad: #b3261e;
  --bad-band: #ffdad6; --lead: #1a7f37; --run: #c46b00; --append: #0b57a4; --vote: #7a3fb5; --grid: #b8bec5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --paper: #14181d; --dim: #98a2ad; --band: #3a3115;
  --bad: #ff8a80; --bad-band: #5b1a17; --lead: #56d364; --run: #f0a34a; --append: #7cb8ff; --vote: #cfa6ff;
  --grid: #59616b; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 1rem; }
h1 { font-size: 1.3rem; } a { color: inherit; }
.verdict { padding: .5rem .8rem; border-radius: 4px; overflow-wrap: anywhere; }
.bad { background: var(--bad-band); } .good { border: 1px solid var(--lead); }
th { text-align: left; padding-right: 1rem; vertical-align: top; } td { overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: 12px; } .boxes label { margin-right: 1rem; white-space: nowrap; }
.legend { color: var(--dim); font-size: 13px; }
.key { display: inline-block; width: 22px; height: 0; border-top: 3px solid var(--grid); vertical-align: middle; }
.key.leader { border-top: 6px solid var(--lead); } .key.candidate { border-top-color: var(--run); }
.key.paused { border-top-style: dotted; } .key.down { border-top: 1px dashed var(--bad); }
.scroll { overflow: auto; max-height: 90vh; border: 1px solid var(--grid); }
svg { display: block; font: 11px ui-monospace, monospace; }
svg text { fill: var(--ink); paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
svg.names { position: sticky; top: 0; background: var(--paper); border-bottom: 1px solid var(--grid); }
svg .name { font-weight: bold; } svg .time { fill: var(--dim); }
.band.note { fill: var(--band); } .band.broken { fill: var(--bad-band); stroke: var(--bad); }
.line { stroke: var(--grid); stroke-width: 2; } .line.leader { stroke: var(--lead); stroke-width: 6; }
.line.candidate, .line.pre_candidate { stroke: var(--run); stroke-width: 4; }
.line.paused { stroke-dasharray: 2 4; } .line.down { stroke: var(--bad); stroke-width: 1; stroke-dasharray: 6 6; }
.arrow, .arrow line { stroke: var(--dim); stroke-width: 1; fill: none; } marker path { fill: context-stroke; }
.arrow.append, .arrow.append line { stroke: var(--append); } .arrow.snapshot { stroke: var(--append); stroke-width: 3; }
.arrow.vote, .arrow.prevote, .arrow.vote line, .arrow.prevote line { stroke: var(--vote); }
.arrow.refused { stroke: var(--bad); stroke-dasharray: 4 3; } .arrow.heartbeat { stroke-opacity: .55; }
.arrow.lost line { stroke-dasharray: 3 3; } .arrow.lost text { fill: var(--bad); stroke: none; }
.event.role text { fill: var(--run); font-weight: bold; } .event.commit text { fill: var(--lead); }
svg .event.note text { stroke: var(--band); } svg .event.broken text { stroke: var(--bad-band); }
.event.note text { font-weight: bold; } .event.broken text { fill: var(--bad); font-weight: bold; }
.event.detail text, .event.message text { fill: var(--dim); }
.dot { fill: var(--lead); } .dot.role { fill: var(--run); } .dot.note { fill: var(--bad); }
body:has(#show-heartbeat:not(:checked)) .heartbeat, body:has(#show-detail:not(:checked)) .detail,
body:has(#show-message:not(:checked)) .message { display: none; }
@media print { .scroll { max-height: none; } }
"""
