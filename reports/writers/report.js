"use strict";
// Sort by a click on a heading, fold variants, filter rows by name, and light up a recipe everywhere while the pointer is on it.
(() => {
  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));

  const value = (row, i) => {
    const cell = row.cells[i];
    const number = parseFloat(cell.dataset.v);
    return cell.dataset.v !== undefined && !Number.isNaN(number) ? number : cell.textContent.trim();
  };
  const empty = (v) => v === "" || v === "–" || (typeof v === "string" && v.startsWith("n/a"));
  const compare = (a, b, sign) => {
    if (empty(a) !== empty(b)) return empty(a) ? 1 : -1; // what is missing stays last, either way
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * String(a).localeCompare(String(b), "en", { numeric: true });
  };
  for (const table of all("table.sortable")) {
    const heads = all("thead tr:last-child th", table);
    heads.forEach((head, i) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        table.classList.add("flat"); // sorted, families no longer stand together
        for (const body of all("tbody", table)) {
          const rows = Array.from(body.rows);
          rows.map((row, at) => [row, value(row, i), at])
            .sort((x, y) => compare(x[1], y[1], up ? 1 : -1) || x[2] - y[2])
            .forEach(([row]) => body.append(row));
        }
      });
    });
  }

  const members = (button) => {
    const row = button.closest("tr");
    return all("tr.member", row.parentElement).filter((r) => r.dataset.family === row.dataset.family);
  };
  const fold = (button, shut) => {
    const rows = members(button);
    for (const row of rows) row.classList.toggle("folded", shut);
    button.setAttribute("aria-expanded", String(!shut));
    button.textContent = (shut ? "▸ " : "▾ ") + rows.length;
  };
  const folds = all("button.fold");
  for (const button of folds) {
    button.hidden = false;
    fold(button, false);
    button.addEventListener("click", () => fold(button, button.getAttribute("aria-expanded") === "true"));
  }
  const foldAll = document.getElementById("fold");
  if (foldAll && folds.length) {
    foldAll.hidden = false;
    foldAll.addEventListener("click", () => {
      const shut = foldAll.textContent === "fold variants";
      for (const button of folds) fold(button, shut);
      foldAll.textContent = shut ? "show variants" : "fold variants";
    });
  }

  const filter = document.getElementById("filter");
  if (filter) {
    filter.parentElement.hidden = false;
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
      for (const item of all("[data-name]")) {
        const name = item.dataset.name.toLowerCase();
        item.hidden = words.length > 0 && !words.some((word) => name.includes(word));
      }
    });
  }

  let lit = null;
  const light = (mark) => {
    if (mark === lit) return;
    lit = mark;
    document.body.classList.toggle("lit", mark !== null);
    for (const item of all("[data-mark]")) item.classList.toggle("on", mark !== null && item.dataset.mark === mark);
  };
  document.addEventListener("pointerover", (event) => {
    const item = event.target.closest("[data-mark]");
    light(item ? item.dataset.mark : null);
  });
  document.documentElement.addEventListener("pointerleave", () => light(null));

  for (const button of all("button.copy")) {
    button.hidden = !(navigator.clipboard && window.isSecureContext);
    button.addEventListener("click", () => {
      navigator.clipboard.writeText(button.previousElementSibling.textContent).then(() => {
        button.textContent = "copied";
        setTimeout(() => { button.textContent = "copy"; }, 1200);
      });
    });
  }
})();
