"use strict";
// Tables that sort and hide columns. Sections stay apart, and anchors below their rule.
page.tables = (() => {
  const { data, make } = page;
  const OPEN = ["table", "differences", "claims"];
  let ends = false;

  function number(entry) {
    const value = make("span", { class: entry.mark || null }, entry.text);
    const interval = entry.ends && `95 % interval ${entry.ends[0]} to ${entry.ends[1]}`;
    let behind = "";
    if (ends && entry.ends) behind = ` (${entry.ends[0]} to ${entry.ends[1]})`;
    else if (entry.half) behind = ` ± ${entry.half}`;
    const half = make("span", { class: "half" }, behind + entry.behind);
    return make("td", { title: interval, class: "number" }, value, half);
  }

  function entryOf(entry, column, textual) {
    let cell;
    if (entry == null) cell = make("td", { class: textual ? "text" : "number" }, "–");
    else if (typeof entry === "string") cell = make("td", { class: "text" }, entry);
    else cell = number(entry);
    if (column.startsWith("paper")) cell.classList.add("paper");
    return cell;
  }

  const value = (entry) => (entry != null && typeof entry === "object" ? entry.v : entry);

  // what has no value stands at the end, whatever the direction
  function sorted(rows, sort) {
    if (!sort) return rows;
    const key = (row) => (sort.column < 0 ? row.label : value(row.entries[sort.column]));
    return [...rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x == null || y == null) return (x == null) - (y == null);
      const order = typeof x === "number" && typeof y === "number"
        ? x - y : String(x).localeCompare(String(y));
      return sort.down ? -order : order;
    });
  }

  function build(table) {
    const hidden = new Set();
    let sort = null;
    const grid = make("table", {});
    const textual = (i) => table.sections.some((s) => s.rows.some((r) => typeof r.entries[i] === "string"));

    function by(column) {
      const down = column >= 0;
      if (!sort || sort.column !== column) sort = { column, down };
      else if (sort.down === down) sort.down = !down;
      else sort = null;
      render();
      grid.querySelectorAll("thead button")[[...shownColumns()].indexOf(column) + 1]?.focus();
    }

    const shownColumns = () => table.columns.map((_, i) => i).filter((i) => !hidden.has(i));

    function head(i) {
      const direction = sort?.column === i ? (sort.down ? "descending" : "ascending") : "none";
      const sign = { none: "", ascending: " ▲", descending: " ▼" }[direction];
      const name = i >= 0 ? table.columns[i] : table.name === "claims" ? "comparison" : "method";
      const button = make("button", { type: "button", onclick: () => by(i) }, name,
        make("span", { "aria-hidden": "true" }, sign));
      return make("th", { scope: "col", "aria-sort": direction, class: textual(i) ? "text" : null }, button);
    }

    function line(row, anchor) {
      return make("tr", { class: anchor ? "anchor" : null },
        make("th", { scope: "row" }, row.label),
        ...shownColumns().map((i) => entryOf(row.entries[i], table.columns[i], textual(i))));
    }

    function section(part) {
      const width = shownColumns().length + 1;
      const title = part.title && make("tr", { class: "section" },
        make("th", { colspan: width, scope: "rowgroup" }, part.title));
      const rule = part.anchors.length > 0 && make("tr", { class: "rule" },
        make("th", { colspan: width, scope: "rowgroup" }, "anchors"));
      return make("tbody", {}, title || null, ...sorted(part.rows, sort).map((r) => line(r, false)),
        rule || null, ...sorted(part.anchors, sort).map((r) => line(r, true)));
    }

    function render() {
      grid.replaceChildren(
        make("caption", { class: "hidden" }, table.caption),
        make("thead", {}, make("tr", {}, head(-1), ...shownColumns().map(head))),
        ...table.sections.map(section));
    }

    const boxes = table.columns.map((name, i) => make("label", {},
      make("input", {
        type: "checkbox", checked: true,
        onchange: (e) => {
          if (e.target.checked) hidden.delete(i); else hidden.add(i);
          render();
        },
      }), name));
    render();
    const view = make("details", { class: "table", open: OPEN.includes(table.name), "data-table": table.name },
      make("summary", {}, table.caption),
      make("details", { class: "columns" }, make("summary", {}, "Columns"),
        make("fieldset", {}, make("legend", { class: "hidden" }, "Columns that are shown"), ...boxes)),
      make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": table.caption }, grid),
      make("div", { class: "notes" }, ...table.notes.map((note) => make("p", {}, note))));
    return { view, render };
  }

  function start(section) {
    const tables = data.tables.map(build);
    const box = make("input", {
      type: "checkbox",
      onchange: (e) => { ends = e.target.checked; tables.forEach((t) => t.render()); },
    });
    section.append(make("p", { class: "options" },
      make("label", {}, box, "Intervals by their ends"),
      make("span", { class: "hint" }, "A column's name sorts by it.")),
      ...tables.map((t) => t.view));
  }
  return { start };
})();
