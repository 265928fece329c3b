"use strict";
// Figures that answer: the pointer and the arrow keys find marks, Enter or a click shows their samples.
page.figures = (() => {
  const { data, make, draw, dot, concepts, cells, minus } = page;
  const [WIDTH, HEIGHT] = [460, 380];
  const ROOM = { left: 64, right: 14, top: 30, bottom: 58 };
  const NEAR = 28;
  // of the lines of anchors, as the pictures have them
  const DASHES = ["6 4", "1.5 3", "10 3", "3 2"];
  const tip = document.getElementById("tip");

  function ticks([low, high]) {
    const raw = (high - low) / 7;
    const size = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * size).find((s) => s >= raw) || raw;
    const out = [];
    for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k += 1) out.push(k * step);
    const digits = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
    return out.map((v) => [v, minus(v.toFixed(digits).replace(/^-(0\.?0*)$/, "$1"))]);
  }

  // words in lines of so many letters
  function lines(text, letters) {
    const out = [];
    for (const word of text.split(/\s+/)) {
      const last = out.length - 1;
      if (last >= 0 && (out[last] + " " + word).length <= letters) out[last] += ` ${word}`;
      else out.push(word);
    }
    return out;
  }

  function axes(panel, at) {
    const [left, right] = [ROOM.left, WIDTH - ROOM.right];
    const [top, bottom] = [ROOM.top, HEIGHT - ROOM.bottom];
    const parts = [draw("text", { x: (left + right) / 2, y: 18, class: "head" }, panel.title)];
    for (const [v, text] of ticks(panel.y.range)) {
      parts.push(draw("line", { x1: left, x2: right, y1: at.y(v), y2: at.y(v), class: "mesh" }),
        draw("text", { x: left - 6, y: at.y(v) + 4, class: "tick end" }, text));
    }
    const xs = panel.x.ticks || ticks(panel.x.range);
    let free = -Infinity;
    for (const [v, text] of xs) {
      const room = panel.x.ticks && panel.marks.some((m) => m.k === "bar")
        ? Math.max(8, Math.floor((right - left) / xs.length / 6.4)) : 99;
      const rows = lines(text, room);
      const half = 3.4 * Math.max(...rows.map((r) => r.length));
      const x = at.x(v);
      parts.push(draw("line", { x1: x, x2: x, y1: bottom, y2: bottom + 4, class: "axis" }));
      if (x - half < free) continue;
      free = x + half + 4;
      rows.forEach((row, i) => parts.push(draw("text", { x, y: bottom + 17 + 13 * i, class: "tick" }, row)));
    }
    parts.push(draw("path", { d: `M${left} ${top}V${bottom}H${right}`, class: "axis" }),
      draw("text", { x: (left + right) / 2, y: HEIGHT - 10, class: "name" }, panel.x.label),
      draw("text", { transform: `translate(15 ${(top + bottom) / 2}) rotate(-90)`, class: "name" }, panel.y.label));
    return parts;
  }

  function whiskers(at, mark) {
    const path = [];
    const [x, y] = mark.bars || [];
    if (x) path.push(`M${at.x(x[0])} ${at.y(mark.y)}H${at.x(x[1])}`);
    if (y) path.push(`M${at.x(mark.x)} ${at.y(y[0])}V${at.y(y[1])}`);
    return path.length ? draw("path", { d: path.join(""), stroke: mark.color, class: "whisker" }) : null;
  }

  // a mark, and where it answers
  function drawn(mark, at, dashed) {
    const place = (p) => `${at.x(p[0]).toFixed(2)},${at.y(p[1]).toFixed(2)}`;
    if (mark.k === "band") {
      return [draw("polygon", { points: mark.points.map(place).join(" "), fill: mark.color, class: "band" })];
    }
    if (mark.k === "line") {
      const line = draw("polyline", {
        points: mark.points.map(place).join(" "), stroke: mark.color, class: mark.dash ? "line dash" : "line",
        "stroke-dasharray": mark.dash ? DASHES[dashed.indexOf(mark.label) % DASHES.length] : null,
      });
      const [a, b] = [mark.points[0], mark.points[mark.points.length - 1]];
      return [line, mark.said && [(at.x(a[0]) + at.x(b[0])) / 2, at.y(a[1])]];
    }
    if (mark.k === "bar") {
      const [x, y, wide] = [at.x(mark.x + 0.04 * mark.width), at.y(mark.y), at.x(mark.x + 0.96 * mark.width)];
      const middle = at.x(mark.x + mark.width / 2);
      const bar = draw("rect", {
        x, y: Math.min(y, at.y(0)), width: wide - x, height: Math.abs(at.y(0) - y), fill: mark.color, class: "bar",
      });
      const ends = mark.interval && draw("path", {
        d: `M${middle} ${at.y(Math.max(0, mark.interval[0]))}V${at.y(mark.interval[1])}`, class: "ink",
      });
      return [draw("g", {}, bar, ends), [middle, (y + at.y(0)) / 2]];
    }
    const [x, y] = [at.x(mark.x), at.y(mark.y)];
    const shape = draw("polygon", {
      points: mark.marker, fill: mark.color, class: mark.faint ? "point faint" : "point",
      transform: `translate(${x} ${y}) scale(${mark.size / 100})`,
    });
    return [draw("g", {}, whiskers(at, mark), shape), [x, y]];
  }

  // what is behind a mark
  function behind(mark) {
    const found = cells(mark.group, mark.label, mark.concepts);
    if (!found.length) return [];
    const images = found.reduce((n, c) => n + c.images, 0);
    const ids = found.slice(0, 3).map((c) => c.id).join(", ") + (found.length > 3 ? ", …" : "");
    const seeds = new Set(found.map((c) => c.seed)).size;
    return [`${found.length} ${found.length === 1 ? "cell" : "cells"} (${ids}), ${images} images, `
      + `${seeds} ${seeds === 1 ? "seed" : "seeds"}`];
  }

  function showTip(mark, x, y) {
    const text = [...mark.said, ...behind(mark)];
    tip.replaceChildren(...text.map((line, i) => make(i ? "p" : "strong", {}, line)));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 8)) + scrollX}px`;
    tip.style.top = `${(y + 14 + box.height > innerHeight ? y - box.height - 10 : y + 14) + scrollY}px`;
  }
  const hideTip = () => { tip.hidden = true; };

  function panelOf(panel, title, dashed) {
    const scale = ([low, high], from, to) => (v) => from + ((v - low) / (high - low)) * (to - from);
    const at = {
      x: scale(panel.x.range, ROOM.left, WIDTH - ROOM.right),
      y: scale(panel.y.range, HEIGHT - ROOM.bottom, ROOM.top),
    };
    const svg = draw("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", class: "panel",
      "aria-label": `${title}, ${panel.title}: arrow keys go from mark to mark, Enter shows samples`,
    }, ...axes(panel, at));
    const marks = [];
    for (const mark of panel.marks) {
      const [shape, place] = drawn(mark, at, dashed);
      shape.dataset.s = mark.s ?? "";
      svg.append(shape);
      if (mark.said && place) marks.push({ mark, shape, place });
    }
    marks.sort((a, b) => a.place[0] - b.place[0] || a.place[1] - b.place[1]);
    marks.forEach(({ mark, shape }) => {
      shape.setAttribute("role", "button");
      shape.setAttribute("tabindex", -1);
      shape.setAttribute("aria-label", [...mark.said, ...behind(mark)].join(". "));
    });
    const active = (i) => marks[i] && marks[i].shape.style.display !== "none";
    let current = -1;
    const stop = () => {
      marks.forEach((m, i) => m.shape.setAttribute("tabindex", i === Math.max(current, 0) ? 0 : -1));
    };
    stop();

    function point(i, focus) {
      marks[current]?.shape.classList.remove("current");
      current = i;
      const { mark, shape, place } = marks[i];
      shape.classList.add("current");
      stop();
      if (focus) shape.focus();
      const box = svg.getBoundingClientRect();
      showTip(mark, box.left + (place[0] / WIDTH) * box.width, box.top + (place[1] / HEIGHT) * box.height);
    }
    function leave() {
      marks[current]?.shape.classList.remove("current");
      hideTip();
    }
    function nearest(event) {
      const box = svg.getBoundingClientRect();
      const [x, y] = [(event.clientX - box.left) * (WIDTH / box.width), (event.clientY - box.top) * (HEIGHT / box.height)];
      let [best, least] = [-1, NEAR];
      marks.forEach(({ mark, shape, place }, i) => {
        if (!active(i)) return;
        const inside = mark.k === "bar" && shape.contains(event.target);
        const far = inside ? 0 : Math.hypot(mark.k === "line" ? 0.3 * NEAR : place[0] - x, place[1] - y);
        if (far < least) [best, least] = [i, far];
      });
      return best;
    }
    svg.addEventListener("pointermove", (e) => {
      const i = nearest(e);
      if (i >= 0) point(i, false); else leave();
    });
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("focusout", leave);
    svg.addEventListener("focusin", (e) => {
      const i = marks.findIndex((m) => m.shape === e.target);
      if (i >= 0) point(i, false);
    });
    const go = ({ mark }) => page.viewer?.show(mark.group, mark.label, mark.concepts);
    svg.addEventListener("click", (e) => { const i = nearest(e); if (i >= 0) go(marks[i]); });
    svg.addEventListener("keydown", (e) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
      if (step && marks.length) {
        e.preventDefault();
        let i = current;
        do i = (i + step + marks.length) % marks.length; while (!active(i) && i !== current);
        point(i, true);
      } else if ((e.key === "Enter" || e.key === " ") && marks[current]) {
        e.preventDefault();
        go(marks[current]);
      } else if (e.key === "Escape") leave();
    });
    return svg;
  }

  function build(figure) {
    const dashed = [...new Set(figure.panels.flatMap((p) => p.marks).filter((m) => m.dash).map((m) => m.label))];
    const sign = (e) => (dashed.includes(e.label)
      ? draw("svg", { viewBox: "0 0 28 12", width: 28, height: 12, "aria-hidden": "true" }, draw("line", {
        x2: 28, y1: 6, y2: 6, stroke: e.color, class: "dash", "stroke-dasharray": DASHES[dashed.indexOf(e.label) % DASHES.length],
      })) : dot(e));
    const panels = figure.panels.map((p) => panelOf(p, figure.title, dashed));
    const entry = (e, s) => make("button", {
      type: "button", "aria-pressed": "true", title: "Show or hide",
      onclick: (event) => {
        const on = event.currentTarget.getAttribute("aria-pressed") !== "true";
        event.currentTarget.setAttribute("aria-pressed", on);
        for (const panel of panels) {
          panel.querySelectorAll(`[data-s="${s}"]`).forEach((shape) => { shape.style.display = on ? "" : "none"; });
        }
      },
    }, sign(e), e.label);
    const outside = figure.panels.filter((p) => p.outside.length)
      .map((p) => `Outside of ${p.title}: ${p.outside.join(", ")}.`);
    const files = [".svg", ".png"].map((end) => figure.name + end).filter((f) => data.files.includes(f));
    return make("figure", { "data-figure": figure.name },
      make("figcaption", {}, figure.title.charAt(0).toUpperCase() + figure.title.slice(1)),
      make("div", { class: "panels" }, ...panels),
      make("div", { class: "legend", role: "group", "aria-label": "Rows that are shown" }, ...figure.legend.map(entry)),
      ...[...figure.notes, ...outside].map((n) => make("p", { class: "note" }, n)),
      files.length ? make("p", { class: "note" }, "As a picture: ",
        ...files.flatMap((f, i) => [i ? ", " : "", make("a", { href: page.link(f) }, f)])) : null);
  }

  function start(section) {
    if (!data.figures.length) return false;
    section.append(...data.figures.map(build));
    return true;
  }
  return { start };
})();
