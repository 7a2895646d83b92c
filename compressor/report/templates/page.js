"use strict";
// A click on a heading sorts its table: upwards, downwards, and then as it was. Cells that say nothing stay last.
const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

function key(cell) {
  // Budgets such as 0.25x and 0.5x are numbers; the parts of a layer's name are not.
  if (cell.tagName === "TH") return cell.textContent.trim().replace(/\d*\.\d+(?=x)/g, (one) => Number(one).toFixed(6));
  const exact = cell.title.trim(), text = (cell.firstChild ? cell.firstChild.textContent : "").trim();
  const written = text.replace(/,/g, "").replace("−", "-").match(/^[+-]?\d*\.?\d+(e[+-]?\d+)?/i);
  if (exact !== "" && Number.isFinite(Number(exact))) return Number(exact);
  if (written) return Number(written[0]);
  return text === "" || text === "–" ? null : text;
}

function compared(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a.localeCompare(b, "en", { numeric: true });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], original = [...body.rows], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.textContent.trim() === "") return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = NEXT[head.getAttribute("aria-sort") || "none"];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (order !== "none") head.setAttribute("aria-sort", order);
      const sign = order === "descending" ? -1 : 1;
      const keyed = original.map((row) => [row, row.cells[column] ? key(row.cells[column]) : null]);
      if (order !== "none") {
        keyed.sort(([, a], [, b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compared(a, b)));
      }
      body.append(...keyed.map(([row]) => row));
    });
  });
}

// What scrolls sideways can be reached by the keyboard.
function reach() {
  for (const box of document.querySelectorAll(".wide")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
reach();
addEventListener("resize", reach);

// On paper everything is open.
const folded = () => document.querySelectorAll("details:not([open])");
let opened = [];
addEventListener("beforeprint", () => { opened = [...folded()]; opened.forEach((one) => { one.open = true; }); });
addEventListener("afterprint", () => opened.forEach((one) => { one.open = false; }));
