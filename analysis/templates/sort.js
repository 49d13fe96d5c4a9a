// A click on a heading sorts its table: numbers first from the highest, then from the lowest, then as it was.
// Without this the page is whole, in its own order.
(() => {
  "use strict";
  const scale = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15 };
  const number = /([+\u2212-]?\d+(?:\.\d+)?)\s*([kMGTP]?)(?![a-z])/;

  // What a cell is sorted by: its number, or its text in lower case; null where it has none.
  const key = (row, column, numeric) => {
    const cell = row.cells[column];
    if (!cell || cell.matches(".nothing, .missing, [colspan]")) return null;
    if (cell.dataset.sort) return Number(cell.dataset.sort);
    const shown = (cell.querySelector("span:not(.interval)") ?? cell).textContent.trim();
    if (!numeric) return shown.toLowerCase();
    const found = number.exec(shown);
    return found && Number(found[1].replace("\u2212", "-")) * (scale[found[2]] ?? 1);
  };
  const ascending = (one, other) =>
    typeof one === "number" && typeof other === "number"
      ? one - other
      : String(one).localeCompare(String(other), undefined, { numeric: true });

  // A derived row says something of the one above it, with which it goes; titles and last rows stay in place.
  const groups = (body) => {
    const found = [];
    for (const row of body.rows) {
      if (row.matches(".block, .last")) continue;
      if (row.matches(".derived") && found.length) found.at(-1).push(row);
      else found.push([row]);
    }
    return found;
  };

  document.querySelectorAll("table.results, table.text").forEach((table) => {
    const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    const original = new Map([...table.tBodies].map((body) => [body, groups(body)]));
    headings.forEach((heading, column) => {
      const numeric = column > 0 && table.matches(".results");
      const order = numeric ? ["descending", "ascending"] : ["ascending", "descending"];
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const next = order[order.indexOf(heading.getAttribute("aria-sort")) + 1];
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        if (next) heading.setAttribute("aria-sort", next);
        const sign = next === "descending" ? -1 : 1;
        original.forEach((rows, body) => {
          const keyed = rows.map((group) => [key(group[0], column, numeric), group]);
          const known = keyed.filter(([value]) => value !== null);
          const rest = keyed.filter(([value]) => value === null);
          known.sort(([one], [other]) => sign * ascending(one, other));
          const sorted = next ? [...known, ...rest] : keyed;
          const last = [...body.rows].find((row) => row.matches(".last")) ?? null;
          sorted.flatMap(([, group]) => group).forEach((row) => body.insertBefore(row, last));
        });
      });
    });
  });
})();
