"""How the page looks: on a wide screen, on a phone, on paper, in light and in the dark."""

# A table becomes a card per row where it would not fit; `data-label` is the head of its column.
STYLE = """\
:root {
  color-scheme: light dark;
  --text: #1b1b1b; --muted: #5c5c5c; --page: #fdfdfc; --band: #f0f1ee; --line: #d3d4cf;
  --link: #00558f;
}
@media (prefers-color-scheme: dark) {
  :root { --text: #e7e7e4; --muted: #a5a5a0; --page: #161715; --band: #23251f; --line: #3c3e38;
          --link: #7fc4f5; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1rem; background: var(--page); color: var(--text);
       font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 3rem; padding-top: .5rem; border-top: 2px solid var(--line); }
p, ul { max-width: 48rem; }
a { color: var(--link); }
code { font-size: .9em; background: var(--band); padding: 0 .25em; border-radius: 3px; }
figure { margin: 1.5rem 0; }
@media screen and (min-width: 60rem) {
  .panels { display: grid; grid-template-columns: 1fr 1fr 1fr; gap: 0 1rem; }
  .figures { display: grid; grid-template-columns: 1fr 1fr; gap: 0 2rem; align-items: start; }
}
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
svg { display: block; width: 100%; max-width: 40rem; height: auto; }
svg text { fill: var(--text); font: 12px system-ui, sans-serif; }
svg .grid { stroke: var(--line); }
svg .bar { stroke-width: 2; opacity: .6; }
svg circle { opacity: .9; }
svg .label { fill: #fff; font-size: 9px; font-weight: 700; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-left: 1em;
       print-color-adjust: exact; }
figcaption, .quiet { color: var(--muted); font-size: .9rem; }
table { border-collapse: collapse; width: 100%; font-size: .8rem; line-height: 1.35; }
th, td { padding: .3rem .45rem; text-align: left; vertical-align: top;
         border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--line); }
tbody th { font-weight: 600; }
th.group { background: var(--band); font-weight: 400; padding: .7rem .45rem; }
th.group strong { font-size: 1rem; }
td[data-label="scale"] { min-width: 10rem; }
td[data-label="date"] { white-space: nowrap; }
tr.missing td, tr.missing th { color: var(--muted); font-style: italic; }
@media screen and (max-width: 60rem) {
  table.cards thead { position: absolute; left: -9999px; }
  table.cards, table.cards tbody, table.cards tr, table.cards th, table.cards td {
    display: block; width: auto; }
  table.cards tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  table.cards th, table.cards td { border: 0; padding: .1rem .45rem; }
  table.cards td { display: grid; grid-template-columns: 6.5rem 1fr; gap: .5rem; }
  table.cards td::before { content: attr(data-label); color: var(--muted); font-style: normal; }
  table.cards td:is([data-label="difference"], [data-label="spread"], [data-label="n"],
                    [data-label="device"], [data-label="date"]) {
    display: inline-block; padding-right: .6rem; }
  table.cards td:is([data-label="difference"], [data-label="spread"], [data-label="n"],
                    [data-label="device"], [data-label="date"])::before { margin-right: .4em; }
  table.cards td.none { display: none; }
}
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  :root { --text: #000; --muted: #333; --page: #fff; --band: #eee; --line: #999; --link: #000; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  table { font-size: 7pt; }
  thead { display: table-header-group; }
  tr, figure { break-inside: avoid; }
  h2, h3, th.group { break-after: avoid; }
  img { max-height: 165mm; }
  .panels { display: grid; grid-template-columns: 1fr 1fr 1fr; gap: 0 4mm; }
  .figures { display: grid; grid-template-columns: 1fr 1fr; gap: 0 6mm; align-items: start; }
  a { text-decoration: none; }
}
"""
