"""How the page looks, by light and by dark, on a phone, on a desk and on paper.

Colours are CSS variables, in the charts too, so that one rule turns everything dark. The series' colours are those of
Okabe and Ito, which people with any common colour blindness can tell apart; brighter ones of the same hue by dark.
"""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --surface: #f6f7f9; --ink: #16191d; --muted: #59616b; --line: #dde1e6; --shade: #0000001f;
  --good: #00664a; --good-soft: #e3f3ec; --bad: #a83a00; --bad-soft: #fdeee5; --note: #6b5200; --note-soft: #fbf4dd;
  --link: #0059a3;
  --s1: #0072b2; --s2: #d55e00; --s3: #009e73; --s4: #b5588e; --s5: #8a6d00; --s6: #3a8fc4; --s7: #4d4d4d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #111418; --surface: #1a1f25; --ink: #e8eaed; --muted: #a0a8b2; --line: #313841; --shade: #000000a0;
    --good: #4fd0a2; --good-soft: #10291f; --bad: #ff9a5c; --bad-soft: #33200f; --note: #e6c558; --note-soft: #2a2512;
    --link: #7cbcf2;
    --s1: #5ab4e8; --s2: #f08a3c; --s3: #33c79a; --s4: #dd92bd; --s5: #e0bd3a; --s6: #9bd4f5; --s7: #b8bec6;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);

  font: 16px/1.55 -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", system-ui, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word;
}
.page { max-width: 1040px; margin: 0 auto; padding: 40px 32px 96px; }
a { color: var(--link); text-underline-offset: 2px; }
a:focus-visible, summary:focus-visible, [tabindex]:focus-visible {
  outline: 2px solid var(--link); outline-offset: 2px;
}
h1, h2, h3, p, ul, ol, dl, figure, blockquote { margin: 0; }
h1 { font-size: 17px; font-weight: 600; line-height: 1.4; }
h2 { font-size: 22px; font-weight: 650; line-height: 1.25; letter-spacing: -0.01em; }
h3 { font-size: 16px; font-weight: 600; margin-top: 36px; }
section { margin-top: 72px; scroll-margin-top: 16px; }
h2 + *, h3 + * { margin-top: 12px; }
.lead, figcaption, .note { color: var(--muted); max-width: 84ch; }
.note { font-size: 14px; margin-top: 12px; }
.note.strong { color: var(--bad); }
.lead + *, .scroll + *, .scroll + figure, figure + figure, .cards + * { margin-top: 24px; }
.muted { color: var(--muted); }
.skip { position: absolute; left: -9999px; }
.skip:focus { left: 16px; top: 16px; background: var(--page); padding: 8px; }
.unseen {
  position: absolute; width: 1px; height: 1px; margin: -1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap;
}

.brand {
  display: flex; flex-wrap: wrap; gap: 4px 16px; justify-content: space-between; color: var(--muted);
  font-size: 14px;
}
.verdict { margin-top: 24px; border-radius: 12px; padding: 28px 32px; background: var(--surface); }
.verdict.passed { background: var(--good-soft); }
.verdict.failed { background: var(--bad-soft); }
.state { display: flex; align-items: center; gap: 12px; font-weight: 700; font-size: 18px; }
.passed > .state { color: var(--good); }
.failed > .state { color: var(--bad); }
.state .sign {
  display: inline-grid; place-items: center; width: 30px; height: 30px; border: 2.5px solid currentColor;
  font-size: 17px;
  line-height: 1; flex: none;
}
.passed > .state .sign { border-radius: 50%; }
.failed > .state .sign { border-radius: 5px; }
.verdict .says { font-size: 24px; line-height: 1.35; font-weight: 600; letter-spacing: -0.012em; margin-top: 14px; }
.verdict .says.long { font-size: 17px; font-weight: 500; letter-spacing: 0; line-height: 1.5; }
.verdict h1 { margin-top: 14px; font-weight: 400; color: var(--muted); }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(136px, 1fr)); gap: 24px 20px;
  margin-top: 32px;
}
.tiles div { border-top: 1px solid var(--line); padding-top: 10px; min-width: 0; }
.tiles dt { color: var(--muted); font-size: 13px; }
.tiles dd { margin: 2px 0 0; font-size: 24px; font-weight: 600; letter-spacing: -0.015em; line-height: 1.3; }
.tiles dd small { font-size: 14px; font-weight: 500; letter-spacing: 0; color: var(--muted); }
.tiles .how {
  font-size: 13px; font-weight: 400; color: var(--muted); letter-spacing: 0; line-height: 1.4;
  display: block;
}
nav ul {
  display: flex; flex-wrap: wrap; gap: 6px 20px; margin-top: 28px; padding: 0; list-style: none;
  font-size: 14px;
}
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }

.scroll {
  overflow-x: auto; position: relative; margin-top: 20px; border: 1px solid var(--line); border-radius: 8px;
  /* A shadow at the side where the table goes on. */
  background:
    linear-gradient(90deg, var(--page) 40%, transparent) 0 0 / 48px 100% no-repeat local,
    linear-gradient(270deg, var(--page) 40%, transparent) 100% 0 / 48px 100% no-repeat local,
    linear-gradient(90deg, var(--shade), transparent) 0 0 / 14px 100% no-repeat scroll,
    linear-gradient(270deg, var(--shade), transparent) 100% 0 / 14px 100% no-repeat scroll;
}
table { border-collapse: collapse; width: 100%; font-size: 14px; line-height: 1.4; }
caption { text-align: left; color: var(--muted); padding: 10px 11px; font-size: 13px; }
/* Where the table is wider than its box, the words above it stay in view. */
caption span { position: sticky; left: 11px; display: inline-block; max-width: min(954px, calc(100vw - 58px)); }
th, td { padding: 8px 11px; text-align: left; vertical-align: baseline; border-top: 1px solid var(--line); }
thead th {
  border-top: 0; color: var(--muted); font-weight: 500; font-size: 13px; white-space: nowrap;
  vertical-align: bottom;
}
caption + thead th { border-top: 1px solid var(--line); }
tbody th { font-weight: 500; min-width: 13ch; }
td.n, th.n { text-align: right; white-space: nowrap; }
td { white-space: nowrap; }
td.free { min-width: 22ch; max-width: 60ch; white-space: normal; overflow-wrap: anywhere; }
.why { color: var(--muted); white-space: normal; min-width: 24ch; max-width: 60ch; overflow-wrap: anywhere; }
.named { display: inline-block; width: max-content; max-width: 38ch; overflow-wrap: anywhere; }
tr.chosen > * { background: var(--good-soft); }
tr.chosen th { font-weight: 650; }
tr.out > * { color: var(--muted); }
.tag { display: inline-flex; gap: 6px; align-items: baseline; white-space: nowrap; font-weight: 500; }
.tag.good { color: var(--good); } .tag.bad { color: var(--bad); } .tag.plain { color: var(--muted); }
.id {
  display: inline-grid; place-items: center; min-width: 22px; height: 22px; padding: 0 5px; border-radius: 11px;
  font-size: 12px; font-weight: 600; border: 1.5px solid var(--c, var(--muted)); color: var(--ink); line-height: 1;
}
.legend {
  display: flex; flex-wrap: wrap; gap: 8px 22px; list-style: none; padding: 0; margin-top: 16px;
  font-size: 14px;
}
.legend li { display: flex; gap: 8px; align-items: center; }

figure { margin-top: 24px; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: inherit; }
.wide { max-width: 976px; } .narrow { display: none; max-width: 480px; margin-left: auto; margin-right: auto; }
figcaption { font-size: 14px; margin-top: 12px; }
.marks {
  margin-top: 16px; padding: 14px 20px 14px 36px; border-left: 4px solid var(--note); background: var(--note-soft);
  border-radius: 0 8px 8px 0; font-size: 15px;
}
.marks li + li { margin-top: 4px; }
.doubts { margin-top: 20px; font-size: 15px; }
.calm { margin-top: 12px; }
.cards {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(124px, 1fr)); gap: 20px; list-style: none;
  padding: 0; margin-top: 24px;
}
.cards li { min-width: 0; font-size: 13px; line-height: 1.45; }
.cards img {
  width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--surface); border-radius: 6px;
  border: 1px solid var(--line); display: block; margin-bottom: 8px;
}
.pixels { image-rendering: pixelated; }
.cards b { font-weight: 600; }
.chain { list-style: none; padding: 0; margin-top: 24px; border-left: 2px solid var(--line); }
.chain li { position: relative; padding: 0 0 24px 28px; }
.chain li:last-child { padding-bottom: 0; }
.chain li::before {
  content: ""; position: absolute; left: -7px; top: 7px; width: 8px; height: 8px; border-radius: 50%;
  background: var(--page); border: 2px solid var(--muted);
}
.chain b { font-weight: 600; } .chain p { font-size: 14px; color: var(--muted); overflow-wrap: anywhere; }
details { margin-top: 20px; border: 1px solid var(--line); border-radius: 8px; }
summary { cursor: pointer; padding: 10px 14px; font-size: 14px; font-weight: 500; }
details .cards { margin: 0; padding: 16px 14px; border-top: 1px solid var(--line); }
details .scroll { margin: 0; border-width: 1px 0 0; border-radius: 0; }
code {
  font: 0.92em ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere;
}
footer {
  margin-top: 96px; padding-top: 20px; border-top: 1px solid var(--line); color: var(--muted);
  font-size: 13px;
}

@media (max-width: 699px) {
  .page { padding: 20px 16px 64px; }
  .verdict { padding: 20px; margin-top: 16px; }
  .verdict .says { font-size: 19px; }
  .verdict .says.long { font-size: 16px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .tiles dd { font-size: 21px; }
  section { margin-top: 56px; }
  .wide { display: none; } .narrow { display: block; } .legend.narrow { display: flex; }
  .cards { grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 20px 12px; }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
@media print {
  .page { max-width: none; padding: 0; } nav { display: none; } section { margin-top: 32px; }
  figure, tr, .verdict { break-inside: avoid; }
}
""".strip()
