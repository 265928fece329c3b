"use strict";
// Puts the page together.
(() => {
  const { data, make, link } = page;
  const part = (id) => document.getElementById(id);
  document.title = `${data.title} – cdbench`;
  part("title").textContent = data.title;
  part("about").append("Experiment ", make("code", {}, data.experiment), ", scale ", make("code", {}, data.scale),
    ", protocol ", make("code", {}, data.protocol), ".");

  page.tables.start(part("tables"));
  part("figures").hidden = !page.figures.start(part("figures"));
  part("samples").hidden = !page.viewer.start(part("samples"));
  if (data.failed.length) {
    part("missing").hidden = false;
    part("missing").append(make("ul", {}, ...data.failed.map(([what, why]) => make("li", {}, `${what}: ${why}`))));
  }

  const named = {
    "README.md": "this report as Markdown", "table.md": "all tables", "table.tex": "all tables, for LaTeX",
    "results.csv": "a row a cell", "images.csv": "a row an image", "report.json": "the rest of the data",
    "pairs.csv": "pairs of images for a preference study", "sweep.csv": "the points of the curves",
  };
  const file = (name) => make("li", {}, make("a", { href: link(name) }, name), named[name] ? `: ${named[name]}` : null);
  const folders = ["grids/", "attention/"];
  const own = data.files.filter((name) => !folders.some((f) => name.startsWith(f)));
  part("files").append(make("ul", {}, ...own.map(file)));
  for (const folder of folders) {
    const inside = data.files.filter((name) => name.startsWith(folder));
    if (!inside.length) continue;
    const what = folder === "grids/" ? "Grids of the first samples" : "Where images attend to words";
    part("files").append(make("details", {}, make("summary", {}, `${what} (${inside.length})`),
      make("ul", {}, ...inside.map(file))));
  }

  const parts = [...document.querySelectorAll("main > section:not([hidden])")];
  part("contents").append(...parts.map((s) => make("a", { href: `#${s.id}` }, s.querySelector("h2").textContent)));

  // on paper everything is open
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details.table:not([open])")];
    closed.forEach((d) => { d.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((d) => { d.open = false; }));
})();
