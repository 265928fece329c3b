"use strict";
// The viewer of samples: same prompt and noise side by side, or images one by one. Only what is in view is
// on the page, so that twenty thousand images are no more to it than twenty.
page.viewer = (() => {
  const { data, make, dot, concepts, shown } = page;
  const samples = data.samples;
  const AHEAD = 2;
  const GAP = 8;
  const state = { set: "", of: "", prompt: "", seed: "", run: "", place: {}, hidden: new Set(), sort: "", by: "", wall: false, size: matchMedia("(max-width: 640px)").matches ? 96 : 128 };
  const parts = {};
  let rows = [];
  let view = [];
  let current = [0, 0];

  const at = (column, i) => samples.images[column][i];
  const cell = (i) => data.cells[at("cell", i)];
  const prompt = (i) => {
    const [of, number, text] = samples.prompts[at("prompt", i)];
    return { of, number, text };
  };
  const seed = (i) => samples.seeds[at("seed", i)];
  const metrics = data.metrics.filter((m) => m.images);
  const setOf = (c) => `${c.group}: ${concepts(c.concepts)}`;

  // the mean over its parts
  function value(i, metric) {
    const found = samples.images.values[metric.name]?.[i];
    if (found == null) return null;
    return Array.isArray(found) ? found.reduce((a, b) => a + b, 0) / found.length : found;
  }

  // rows of the tables, each with what it looks like; an anchor and a method of one label are two
  const looks = new Map();
  for (const group of data.groups) {
    for (const row of group.rows) if (!looks.has(row.label)) looks.set(row.label, row);
  }

  // neighbours of one prompt and noise are a row
  function gather() {
    const count = samples.images.cell.length;
    let last = "";
    for (let i = 0; i < count; i += 1) {
      const key = `${setOf(cell(i))}\n${at("prompt", i)}\n${at("seed", i)}`;
      if (key !== last) rows.push({ first: i, images: [] });
      rows[rows.length - 1].images.push(i);
      last = key;
    }
  }

  const placed = (label) => Object.entries(state.place)
    .every(([key, wanted]) => !wanted || (looks.get(label)?.place?.[key] ?? wanted) === wanted);
  const chosen = (i) => !state.hidden.has(cell(i).label) && placed(cell(i).label)
    && (!state.run || cell(i).seed === state.run || looks.get(cell(i).label)?.anchor);

  function matches(row, but) {
    const i = row.first;
    return (but === "set" || !state.set || setOf(cell(i)) === state.set)
      && (but === "of" || state.of === prompt(i).of)
      && (but === "prompt" || !state.prompt || prompt(i).text === state.prompt)
      && (but === "seed" || !state.seed || seed(i) === state.seed);
  }

  // what is shown, in order: lines of images
  function choose() {
    const metric = metrics.find((m) => m.name === state.sort.slice(0, -1));
    const up = state.sort.endsWith("-") ? 1 : -1;
    const best = metric && (metric.more ? 1 : -1);
    const rank = (v) => (v == null ? Infinity : up * best * v);
    let lines = rows.filter((row) => matches(row)).map((row) => row.images.filter(chosen)).filter((l) => l.length);
    if (metric) {
      const of = (line) => {
        const own = state.by && !state.wall ? line.filter((i) => cell(i).label === state.by) : line;
        return Math.min(Infinity, ...own.map((i) => rank(value(i, metric))));
      };
      if (state.wall) lines = lines.flat().map((i) => [i]);
      const keyed = lines.map((line) => [of(line), line]);
      // the same order for the same values
      lines = keyed.map((k, i) => [...k, i]).sort((a, b) => a[0] - b[0] || a[2] - b[2]).map((k) => k[1]);
    }
    parts.metric = metric || metrics[0];
    if (state.wall) {
      const flat = lines.flat();
      const across = Math.max(1, Math.floor((parts.scroller.clientWidth - GAP) / (state.size + GAP)));
      view = [];
      for (let i = 0; i < flat.length; i += across) view.push(flat.slice(i, i + across));
    } else view = lines;
  }

  const narrow = () => matchMedia("(max-width: 640px)").matches;
  const height = () => state.size + 60 + (!state.wall && narrow() ? 44 : 0);

  // a thumbnail of a sheet
  function thumb(i, size) {
    const box = make("span", { class: samples.side <= 80 ? "thumb small" : "thumb" });
    box.style.width = box.style.height = `${size}px`;
    const [sheet, slot] = [at("sheet", i), at("slot", i)];
    if (sheet < 0) {
      box.append("lost");
      return box;
    }
    const [x, y] = [slot % samples.across, Math.floor(slot / samples.across)];
    box.style.backgroundImage = `url("${samples.sheets[sheet]}")`;
    box.style.backgroundSize = `${samples.across * size}px auto`;
    box.style.backgroundPosition = `${-x * size}px ${-y * size}px`;
    return box;
  }

  function said(i) {
    const p = prompt(i);
    const c = cell(i);
    const scores = metrics.map((m) => [m, value(i, m)]).filter(([, v]) => v != null)
      .map(([m, v]) => `${m.title} ${shown(m, v)}`);
    return `${c.label}, ${concepts(c.concepts)}, ${p.text}, seed ${seed(i)}, ${scores.join(", ")}`;
  }

  function tile(i, r, c) {
    const label = cell(i).label;
    const found = parts.metric && value(i, parts.metric);
    const button = make("button", {
      type: "button", class: "tile", "aria-label": said(i), title: said(i), "data-i": i,
      tabindex: r === current[0] && c === current[1] ? 0 : -1,
      onclick: () => { current = [r, c]; page.image.open(i, view.flat()); },
      onfocus: () => { current = [r, c]; targets(i); },
      onpointerenter: () => targets(i),
    }, thumb(i, state.size),
    make("span", { class: "label" }, looks.has(label) ? dot(looks.get(label), 11) : null, label),
    make("span", { class: "value" }, found == null ? "" : `${shown(parts.metric, found)} ${parts.metric.title}`));
    button.style.width = `${state.size}px`;
    return make("div", { role: "gridcell" }, button);
  }

  function line(r) {
    const images = view[r];
    const c = cell(images[0]);
    const head = state.wall ? null : make("div", { class: "head", role: "rowheader" },
      make("b", {}, prompt(images[0]).text),
      make("span", {}, `${concepts(c.concepts)} · seed ${seed(images[0])}`));
    const row = make("div", { class: "line", role: "row", "aria-rowindex": r + 1 }, head,
      make("div", { class: "tiles", role: "presentation" }, ...images.map((i, k) => tile(i, r, k))));
    row.style.top = `${r * height()}px`;
    row.style.height = `${height()}px`;
    return row;
  }

  const live = new Map();
  function render(again) {
    const { scroller, inner } = parts;
    const size = height();
    inner.style.height = `${view.length * size}px`;
    const first = Math.max(0, Math.floor(scroller.scrollTop / size) - AHEAD);
    const last = Math.min(view.length - 1, Math.ceil((scroller.scrollTop + scroller.clientHeight) / size) + AHEAD);
    for (const [r, element] of live) {
      if (again || r < first || r > last) {
        // the keyboard stays in the viewer
        if (element.contains(document.activeElement)) scroller.focus({ preventScroll: true });
        element.remove();
        live.delete(r);
      }
    }
    for (let r = first; r <= last; r += 1) {
      if (!live.has(r)) {
        live.set(r, line(r));
        inner.append(live.get(r));
      }
    }
    const top = view[Math.min(view.length - 1, Math.round(scroller.scrollTop / size))];
    if (top && !scroller.contains(document.activeElement)) targets(top[0]);
  }

  // the targets of what is looked at stay in view
  let targeted = "";
  function targets(i) {
    const key = setOf(cell(i));
    if (key === targeted) return;
    targeted = key;
    parts.targets.replaceChildren(...cell(i).concepts.map((name) => strip(name)));
  }
  function strip(name) {
    const found = samples.targets[name];
    const [sheet, count] = found || ["", 0];
    const pictures = Array.from({ length: count }, (_, k) => {
      const box = make("span", { class: "thumb target", role: "img", "aria-label": `target ${k + 1} of ${name}` });
      box.style.backgroundImage = `url("${sheet}")`;
      box.style.backgroundSize = `${100 * count}% 100%`;
      box.style.backgroundPosition = `${count > 1 ? (100 * k) / (count - 1) : 0}% 0`;
      return box;
    });
    return make("div", { class: "strip" }, make("b", {}, `targets of ${name}`),
      make("div", { class: "pictures" }, ...pictures));
  }

  function refresh(keep) {
    choose();
    if (!keep) {
      current = [0, 0];
      parts.scroller.scrollTop = 0;
    }
    const count = view.reduce((n, line) => n + line.length, 0);
    const where = state.wall ? ", one by one" : `, ${view.length.toLocaleString("en")} rows of the same prompt and seed`;
    parts.status.textContent = count
      ? `${count.toLocaleString("en")} ${count === 1 ? "image" : "images"}${where}`
      : "No image is left: choose less.";
    parts.scroller.setAttribute("aria-rowcount", view.length);
    if (!view.length) parts.targets.replaceChildren();
    targeted = "";
    render(true);
    if (view.length) targets(view[0][0]);
  }

  function focus(r, c) {
    r = Math.max(0, Math.min(view.length - 1, r));
    if (!view[r]) return;
    c = Math.max(0, Math.min(view[r].length - 1, c));
    current = [r, c];
    const { scroller } = parts;
    const top = r * height();
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + height() > scroller.scrollTop + scroller.clientHeight) {
      scroller.scrollTop = top + height() - scroller.clientHeight;
    }
    render(false);
    scroller.querySelectorAll(".tile").forEach((tile) => { tile.tabIndex = -1; });
    const tile = live.get(r).querySelectorAll(".tile")[c];
    tile.tabIndex = 0;
    tile.focus({ preventScroll: true });
    tile.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  function keys(event) {
    const [r, c] = current;
    const whole = Math.max(1, Math.floor(parts.scroller.clientHeight / height()));
    const to = {
      ArrowRight: [r, c + 1], ArrowLeft: [r, c - 1], ArrowDown: [r + 1, c], ArrowUp: [r - 1, c],
      PageDown: [r + whole, c], PageUp: [r - whole, c],
      Home: event.ctrlKey ? [0, 0] : [r, 0], End: event.ctrlKey ? [view.length - 1, Infinity] : [r, Infinity],
    }[event.key];
    if (!to || event.altKey || event.metaKey) return;
    event.preventDefault();
    if (to[0] === r && to[1] < 0 && r > 0) focus(r - 1, Infinity);
    else if (to[0] === r && to[1] >= view[r].length && to[1] !== Infinity && r + 1 < view.length) focus(r + 1, 0);
    else focus(...to);
  }

  // a list to choose from; nothing where there is nothing to choose
  function select(name, label, options, all) {
    const list = make("select", { name, onchange: (e) => change(name, e.target.value) });
    const element = make("label", { class: "choice" }, label, list);
    const fill = (found) => {
      const values = all == null ? found : [["", all], ...found];
      list.replaceChildren(...values.map(([v, text]) => make("option", { value: v }, text)));
      list.value = read(name);
      element.hidden = values.length < 2 || (all != null && found.length < 2 && !read(name));
    };
    fill(options);
    return { element, list, fill };
  }
  const read = (name) => (name.startsWith("place.") ? state.place[name.slice(6)] || "" : state[name]);
  function change(name, value) {
    if (name.startsWith("place.")) state.place[name.slice(6)] = value;
    else state[name] = value;
    if (name === "set" || name === "of") state.prompt = state.seed = "";
    if (name === "prompt") state.seed = "";
    options();
    refresh();
  }

  const distinct = (values) => [...new Set(values)];
  const pairs = (values) => values.map((v) => [v, v]);
  // of each list what the others leave
  function options() {
    const left = (but) => rows.filter((row) => matches(row, but));
    parts.prompt.fill(pairs(distinct(left("prompt").map((row) => prompt(row.first).text))));
    parts.seed.fill(pairs(distinct(left("seed").map((row) => seed(row.first))).sort((a, b) => a.length - b.length || (a < b ? -1 : 1))));
    parts.sort.list.value = state.sort;
    parts.by.element.hidden = !state.sort || state.wall;
    const here = new Set(rows.filter((row) => matches(row)).flatMap((row) => row.images.map((i) => cell(i).label)));
    parts.methods.querySelectorAll("input").forEach((box) => {
      box.checked = !state.hidden.has(box.value);
      box.closest("label").hidden = !here.has(box.value) || !placed(box.value);
    });
  }

  function methods() {
    const labels = [...looks.keys()].filter((label) => parts.labels.has(label));
    const box = (label) => make("label", {},
      make("input", {
        type: "checkbox", value: label, checked: true,
        onchange: (e) => {
          if (e.target.checked) state.hidden.delete(label); else state.hidden.add(label);
          refresh(true);
        },
      }), dot(looks.get(label)), label);
    const every = (on) => () => {
      labels.forEach((label) => { if (on) state.hidden.delete(label); else state.hidden.add(label); });
      options();
      refresh();
    };
    return make("fieldset", { class: "methods" }, make("legend", {}, "Methods"),
      make("button", { type: "button", onclick: every(true) }, "all"),
      make("button", { type: "button", onclick: every(false) }, "none"), ...labels.map(box));
  }

  function start(section) {
    if (!samples) {
      section.append(make("p", {}, "The samples are drawn at the end of the run, or by cdbench report."));
      return data.cells.some((c) => c.images > 0);
    }
    gather();
    if (!rows.length) return false;
    parts.labels = new Set(samples.images.cell.map((c) => data.cells[c].label));
    const sets = distinct(rows.map((row) => setOf(cell(row.first))));
    const kinds = distinct(rows.map((row) => prompt(row.first).of));
    const runs = distinct(data.cells.map((c) => c.seed));
    if (!kinds.includes("")) state.of = kinds[0];
    const orders = metrics.flatMap((m) => [[`${m.name}+`, `${m.title}, best first`], [`${m.name}-`, `${m.title}, worst first`]]);
    const set = select("set", "Concept", pairs(sets), "all");
    const kind = select("of", "Asked by", kinds.map((k) => [k, k || "evaluation prompts"]));
    parts.prompt = select("prompt", "Prompt", [], "all");
    parts.seed = select("seed", "Seed", [], "all");
    const run = select("run", "Training seed", pairs(runs), "all");
    const sweep = data.keys.map((key) => select(`place.${key}`, key,
      pairs(distinct([...looks.values()].map((l) => l.place?.[key]).filter((v) => v != null))), "all"));
    parts.sort = select("sort", "Sort by", orders, "prompt");
    parts.by = select("by", "of", pairs([...looks.keys()].filter((l) => parts.labels.has(l))), "the best of each row");
    const radio = (wall, text) => make("label", {},
      make("input", { type: "radio", name: "layout", value: String(wall), checked: state.wall === wall, onchange: () => { state.wall = wall; options(); refresh(); } }), text);
    const size = make("label", { class: "choice" }, "Size", make("input", {
      type: "range", min: 48, max: 256, step: 16, value: state.size, name: "size",
      oninput: (e) => { state.size = Number(e.target.value); refresh(true); },
    }));
    parts.set = set;
    parts.methods = methods();
    parts.status = make("p", { class: "status", role: "status" });
    parts.targets = make("div", { class: "targets", "aria-label": "Targets", role: "group" });
    parts.inner = make("div", { class: "inner", role: "rowgroup" });
    parts.scroller = make("div", {
      class: "scroller", tabindex: 0, role: "grid", "aria-label": "Samples: arrow keys go from image to image, Enter shows one whole",
    }, parts.inner);
    parts.scroller.addEventListener("keydown", keys);
    let waiting = false;
    parts.scroller.addEventListener("scroll", () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; render(false); });
    }, { passive: true });
    section.hidden = false;
    section.append(
      make("form", { class: "filters", onsubmit: (e) => e.preventDefault() },
        ...[set, kind, parts.prompt, parts.seed, run, ...sweep, parts.sort, parts.by].map((s) => s.element), size,
        make("fieldset", { class: "layout" }, make("legend", { class: "hidden" }, "Layout"),
          radio(false, "side by side"), radio(true, "one by one"))),
      parts.methods, parts.status, parts.targets, parts.scroller);
    new ResizeObserver(() => refresh(true)).observe(parts.scroller);
    options();
    refresh();
    return true;
  }

  // the samples of a row of the tables
  function show(group, label, set) {
    if (!samples || !parts.labels.has(label)) return;
    state.set = set ? `${group}: ${concepts(set)}` : "";
    parts.set.list.value = state.set;
    Object.assign(state, { prompt: "", seed: "", place: {} });
    looks.forEach((_, name) => { if (name === label) state.hidden.delete(name); else state.hidden.add(name); });
    document.querySelectorAll(".filters select").forEach((list) => { list.value = read(list.name); });
    options();
    refresh();
    focus(0, 0);
    document.getElementById("samples").scrollIntoView();
  }

  const back = () => focus(...current);
  return { start, show, thumb, strip, value, prompt, seed, cell, at, metrics, looks, back, rowOf: (i) => rows.find((row) => row.images.includes(i)) };
})();
