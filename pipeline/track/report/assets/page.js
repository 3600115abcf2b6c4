// Tables that sort by a column, pictures that grow, and pictures of several steps that a slider leafs through.
"use strict";
(() => {
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").onclick = () => {
        const falls = head.getAttribute("aria-sort") === "descending" || !head.classList.contains("n");
        const isUp = head.getAttribute("aria-sort") === "ascending" ? false : falls;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
        const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
        const compare = (a, b) =>
          head.classList.contains("n") ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
        // What has no value stands last, whichever way.
        const rows = [...body.rows].map((row) => ({ row, value: key(row) }));
        rows.sort((a, b) => (a.value === "") - (b.value === "") || (isUp ? 1 : -1) * compare(a.value, b.value));
        body.append(...rows.map(({ row }) => row));
      };
    });
  }
  for (const figure of document.querySelectorAll(".picture")) {
    const images = [...figure.querySelectorAll("img")], captions = [...figure.querySelectorAll("figcaption")];
    for (const image of images) image.onclick = () => figure.classList.toggle("full");
    const slider = figure.querySelector("input");
    if (!slider) continue;
    slider.oninput = () => {
      images.forEach((image, place) => { image.hidden = place !== Number(slider.value); });
      captions.forEach((caption, place) => { caption.hidden = place !== Number(slider.value); });
    };
  }
})();
