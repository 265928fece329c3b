"use strict";
// What the parts of the page share. Texts become text nodes and attributes, never HTML.
window.page = (() => {
  const data = window.cdbench;

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value != null) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child != null));
    return element;
  }
  const make = (tag, attributes, ...children) =>
    fill(document.createElement(tag), attributes, children);
  const draw = (tag, attributes, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  // a marker of a row, as figures have it
  function dot(row, size = 12) {
    const shape = row.marker
      ? draw("polygon", { points: row.marker, fill: row.color })
      : draw("rect", { x: -90, y: -90, width: 180, height: 180, fill: row.color });
    return draw("svg", { viewBox: "-145 -145 290 290", width: size, height: size, class: "dot", "aria-hidden": "true" }, shape);
  }

  const concepts = (set) => set.join(" + ");
  const cells = (group, label, set) =>
    data.cells.filter((c) => c.group === group && c.label === label
      && (!set || concepts(c.concepts) === concepts(set)));
  const link = (name) => name.split("/").map(encodeURIComponent).join("/");
  const minus = (text) => text.replace("-", "−");
  const shown = (metric, value) => minus((value * metric.scale).toFixed(metric.digits));
  // a word as a shell takes it
  const quoted = (word) => `'${word.replaceAll("'", "'\\''")}'`;

  return { data, make, draw, dot, concepts, cells, link, minus, shown, quoted };
})();
