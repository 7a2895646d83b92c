"""The style sheet of the pages: one column, numbers aligned to the right, light or dark as the reader's system is."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark;
  --ground: #f4f6f8; --ink: #1f2933; --paper: #fff; --frame: #dfe4ea; --soft: #3b4652; --faint: #5b6570;
  --good: #00754f; --good-text: #00664b; --bad: #b23c00; --bad-text: #a63800; --grey: #8b929c;
  --good-pale: #d9f0e6; --good-deep: #00583f; --bad-pale: #fde3d3; --bad-deep: #8a2e00; --line: #e8ebef;
  --rule: #c9d0d8; --column: #f2f7fb; --blue: #0072b2; --link: #005a8f; --grid: #e3e7ec; --edge: #b8c0c9;
  --pale: #d4d9df; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #12161b; --ink: #e4e8ed; --paper: #1b2128; --frame: #323b45; --soft: #c3cad2; --faint: #9aa5b1;
  --good: #2fae80; --good-text: #5fd0a5; --bad: #e0703a; --bad-text: #f29b6b; --grey: #8b929c;
  --good-pale: #123d2f; --good-deep: #8fe0c2; --bad-pale: #4a2614; --bad-deep: #f7b793; --line: #2b333c;
  --rule: #414b56; --column: #202a35; --blue: #4da3dc; --link: #7dbcea; --grid: #2d353f; --edge: #55606c;
  --pale: #3d4752; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1140px; margin: 0 auto; padding: 32px 20px 48px; }
header, section { overflow-wrap: anywhere; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 6px; }
h2 { font-size: 18px; margin: 0 0 12px; }
h3 { font-size: 15px; margin: 0 0 6px; }
section { background: var(--paper); border: 1px solid var(--frame); border-radius: 8px; padding: 20px 24px;
  margin-top: 18px; }
.facts span { margin-right: 22px; display: inline-block; }
header .facts { color: var(--soft); margin: 0; }
header b { color: var(--faint); font-weight: 500; }
.verdict { border-left-width: 6px; }
.verdict h2 { font-size: 22px; }
.verdict.met { border-left-color: var(--good); }
.verdict.met h2 { color: var(--good-text); }
.verdict.missed { border-left-color: var(--bad); }
.verdict.missed h2 { color: var(--bad-text); }
.verdict.open { border-left-color: var(--grey); }
.badge { border-radius: 10px; padding: 1px 10px; font-weight: 600; white-space: nowrap; }
.badge.met { background: var(--good-pale); color: var(--good-deep); }
.badge.missed { background: var(--bad-pale); color: var(--bad-deep); }
.badge.open { background: var(--line); color: var(--soft); }
.claims { margin: 16px 0 0; font-size: 16px; }
.claims span { display: block; }
.claims b { font-variant-numeric: tabular-nums; }
.note { color: var(--faint); font-size: 13.5px; margin: 10px 0 0; max-width: 95ch; }
.wide { overflow-x: auto; overflow-wrap: normal; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 500; color: var(--soft); }
thead th { color: var(--faint); border-bottom-color: var(--rule); }
tr > :first-child { text-align: left; padding-left: 0; }
tbody tr:last-child > * { border-bottom: 0; }
td small { display: block; color: var(--faint); font-size: 12.5px; }
table.networks { width: 100%; }
table.networks td:nth-child(2) { font-weight: 600; background: var(--column); }
table.networks td:nth-child(2) small { font-weight: 400; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 7px; }
table.heat { font-size: 12.5px; }
table.heat th, table.heat td { padding: 3px 4px 3px 6px; border-bottom-color: var(--paper); white-space: nowrap; }
table.heat td:last-child { font-weight: 600; border-left: 3px solid var(--paper); }
table.time { width: 100%; }
td.bar { width: 65%; vertical-align: middle; }
.length { display: block; height: 12px; background: var(--blue); border-radius: 2px; min-width: 1px; }
.columns { display: flex; flex-wrap: wrap; gap: 12px 56px; }
table.facts td { text-align: left; }
table.facts thead { display: none; }
table.facts th, table.facts td { padding: 3px 14px; border-bottom: 0; font-size: 14px; }
table.facts th, table.heat th:first-child { padding-left: 0; }
details { margin-top: 12px; }
summary { cursor: pointer; color: var(--link); }
details table { margin-top: 8px; font-size: 14px; }
pre { background: var(--ground); border-radius: 6px; padding: 14px 16px; margin: 0; overflow-x: auto; font-size: 13.5px;
  line-height: 1.55; font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { font-family: inherit; }
svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
svg text { font-family: inherit; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(280px, 100%), 1fr)); gap: 12px 20px; }
.legend span { margin-right: 18px; white-space: nowrap; }
.legend { margin: 0 0 10px; }
.behind { color: var(--faint); }
a { color: var(--link); }
table.means th, table.means td { white-space: nowrap; }
table.means td[colspan] { text-align: left; }
table.runs { font-size: 13px; white-space: nowrap; }
table.runs th, table.runs td { padding: 4px 8px; }
table.runs :last-child { text-align: left; }
@media (max-width: 600px) {
  main { padding: 20px 10px 32px; }
  section { padding: 16px 14px; }
  th, td { padding: 6px 8px; }
  table.means tbody th { white-space: normal; overflow-wrap: anywhere; min-width: 98px; max-width: 130px; }
}
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""
