"""The page's style sheet: dark text on light ground, one column, numbers aligned to the right."""

from __future__ import annotations

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f8; color: #1f2933; font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1140px; margin: 0 auto; padding: 32px 20px 48px; }
header, section { overflow-wrap: anywhere; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 6px; }
h2 { font-size: 18px; margin: 0 0 12px; }
h3 { font-size: 15px; margin: 0 0 6px; }
section { background: #fff; border: 1px solid #dfe4ea; border-radius: 8px; padding: 20px 24px; margin-top: 18px; }
.facts span { margin-right: 22px; }
header .facts { color: #3b4652; margin: 0; }
header b { color: #5b6570; font-weight: 500; }
.verdict { border-left-width: 6px; }
.verdict h2 { font-size: 22px; }
.verdict.met { border-left-color: #00754f; }
.verdict.met h2 { color: #00664b; }
.verdict.missed { border-left-color: #b23c00; }
.verdict.missed h2 { color: #a63800; }
.verdict.open { border-left-color: #8b929c; }
.badge { border-radius: 10px; padding: 1px 10px; font-weight: 600; white-space: nowrap; }
.badge.met { background: #d9f0e6; color: #00583f; }
.badge.missed { background: #fde3d3; color: #8a2e00; }
.badge.open { background: #e8ebef; color: #3b4652; }
.claims { margin: 16px 0 0; font-size: 16px; }
.claims span { display: block; }
.claims b { font-variant-numeric: tabular-nums; }
.note { color: #5b6570; font-size: 13.5px; margin: 10px 0 0; max-width: 95ch; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px; text-align: right; vertical-align: top; border-bottom: 1px solid #e8ebef; }
th { font-weight: 500; color: #3b4652; }
thead th { color: #5b6570; border-bottom-color: #c9d0d8; }
tr > :first-child { text-align: left; padding-left: 0; }
tbody tr:last-child > * { border-bottom: 0; }
td small { display: block; color: #5b6570; font-size: 12.5px; }
table.networks { width: 100%; }
table.networks td:nth-child(2) { font-weight: 600; background: #f2f7fb; }
table.networks td:nth-child(2) small { font-weight: 400; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 7px; }
table.heat { font-size: 12.5px; }
table.heat th, table.heat td { padding: 3px 4px 3px 6px; border-bottom-color: #fff; white-space: nowrap; }
table.heat td:last-child { font-weight: 600; border-left: 3px solid #fff; }
table.time { width: 100%; }
td.bar { width: 65%; vertical-align: middle; }
.length { display: block; height: 12px; background: #0072b2; border-radius: 2px; min-width: 1px; }
.columns { display: flex; flex-wrap: wrap; gap: 12px 56px; }
table.facts td { text-align: left; }
table.facts thead { display: none; }
table.facts th, table.facts td { padding: 3px 14px; border-bottom: 0; font-size: 14px; }
table.facts th, table.heat th:first-child { padding-left: 0; }
details { margin-top: 12px; }
summary { cursor: pointer; color: #005a8f; }
details table { margin-top: 8px; font-size: 14px; }
pre { background: #f4f6f8; border-radius: 6px; padding: 14px 16px; margin: 0; overflow-x: auto; font-size: 13.5px;
  line-height: 1.55; font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { font-family: inherit; }
svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
svg text { font-family: inherit; }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""
