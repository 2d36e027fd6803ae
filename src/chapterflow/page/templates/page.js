"use strict";
// Without this script every table is a plain one, in the order in which the page was written.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.tagName !== "TH") return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      const key = (row) => {
        const cell = row.cells[column];
        return cell.dataset.sort ?? cell.textContent.trim();
      };
      const numeric = head.classList.contains("number");
      // What a run does not have stands last in either direction.
      const value = (text) => (/^inf$/i.test(text) ? NaN : Number(text));
      const compare = (a, b) => {
        if (!numeric) return (up ? 1 : -1) * key(a).localeCompare(key(b), "en", { numeric: true });
        const [x, y] = [value(key(a)), value(key(b))];
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return up ? x - y : y - x;
      };
      body.append(...[...body.rows].sort(compare));
      for (const other of heads) if (other.tagName === "TH") other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
    });
  });
}
// A link to a folded model opens it.
const reveal = () => {
  const target = document.getElementById(location.hash.slice(1));
  const folded = target?.closest("details");
  if (!folded || folded.open) return;
  folded.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", reveal);
for (const link of document.querySelectorAll('main a[href^="#"]')) {
  // The same link twice changes no hash.
  link.addEventListener("click", () => setTimeout(reveal));
}
reveal();
const links = [...document.querySelectorAll("nav a")];
const seen = new IntersectionObserver(
  () => {
    const passed = links.filter((link) => {
      const heading = document.getElementById(link.hash.slice(1));
      return heading.getBoundingClientRect().top < innerHeight / 3;
    });
    for (const link of links) link.removeAttribute("aria-current");
    passed.at(-1)?.setAttribute("aria-current", "true");
  },
  { threshold: [0, 1] },
);
for (const heading of document.querySelectorAll("h2, h3")) seen.observe(heading);
