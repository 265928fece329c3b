"use strict";
// One image whole, with all that is known of it and the command that makes it again.
page.image = (() => {
  const { data, make, dot, concepts, shown, quoted } = page;
  const dialog = document.getElementById("image");
  const viewer = () => page.viewer;
  let [list, current] = [[], 0];

  function command(i) {
    const origin = data.samples.origins[viewer().at("origin", i)];
    if (!origin) return null;
    const [, again, samples] = origin;
    if (!samples) return again;
    const prompt = data.samples.asked[viewer().at("asked", i)];
    return `${again} --seed ${viewer().seed(i)} --prompt=${quoted(prompt)} -o again.png`;
  }

  function whole(i) {
    const name = viewer().at("full", i);
    const text = `${viewer().cell(i).label}: ${viewer().prompt(i).text}`;
    if (!name) return make("p", { class: "lost" }, "This image is lost: its file was not in the store.");
    const image = make("img", { src: `page/images/${name}`, alt: text });
    image.addEventListener("load", () => { if (image.naturalWidth <= 128) image.classList.add("small"); });
    image.addEventListener("error", () => image.replaceWith(
      make("p", { class: "lost" }, "The report was written anew since this page was opened: load it again.")));
    return image;
  }

  function scores(i) {
    return viewer().metrics.flatMap((m) => {
      const found = data.samples.images.values[m.name]?.[i];
      if (found == null) return [];
      const each = Array.isArray(found) && found.length > 1
        ? ` (${found.map((v, k) => `${viewer().cell(i).concepts[k]} ${shown(m, v)}`).join(", ")})` : "";
      return [[m.title, shown(m, viewer().value(i, m)) + each]];
    });
  }

  function facts(i) {
    const { at, cell, prompt, seed } = viewer();
    const c = cell(i);
    const origin = data.samples.origins[at("origin", i)];
    const asked = at("asked", i) == null ? null : data.samples.asked[at("asked", i)];
    return [
      ["Prompt", asked ?? prompt(i).text],
      asked != null && asked !== prompt(i).text ? ["As CLIP sees it", prompt(i).text] : null,
      prompt(i).of ? ["Asked by", prompt(i).of] : null,
      ["Seed", seed(i)],
      ["Training seed", c.seed],
      ["Concepts", concepts(c.concepts)],
      ...scores(i),
      ["Checkpoint", origin?.[0] ?? "not known"],
      ["Cell", c.id],
      ["File in the store", `${data.samples.folders[at("folder", i)]}/${at("file", i)}`],
    ].filter(Boolean);
  }

  function copier(text) {
    const button = make("button", {
      type: "button",
      onclick: async () => {
        try {
          await navigator.clipboard.writeText(text);
          button.textContent = "copied";
        } catch {
          getSelection().selectAllChildren(dialog.querySelector("code"));
          button.textContent = "selected";
        }
      },
    }, "copy");
    return button;
  }

  // the others of the same prompt and seed
  function beside(i) {
    const row = viewer().rowOf(i);
    const one = (k) => make("button", {
      type: "button", class: "tile", "aria-label": viewer().cell(k).label, title: viewer().cell(k).label,
      "aria-current": k === i ? "true" : null, onclick: () => render(k),
    }, viewer().thumb(k, 72), make("span", { class: "label" }, viewer().cell(k).label));
    return make("div", { class: "beside" }, make("b", {}, "same prompt and seed"),
      make("div", { class: "pictures" }, ...row.images.map(one)));
  }

  function render(i) {
    const at = list.indexOf(i);
    if (at >= 0) current = at;
    const c = viewer().cell(i);
    const look = viewer().looks.get(c.label);
    const text = command(i);
    const move = (by, name, sign) => make("button", {
      type: "button", "aria-label": name, disabled: list[current + by] == null, onclick: () => step(by),
    }, sign);
    const note = data.samples.exact ? null
      : make("p", { class: "note" }, "A JPEG of the image; the store has it as it was made.");
    dialog.replaceChildren(
      make("div", { class: "bar" },
        make("h3", { id: "image-title" }, look ? dot(look, 15) : null, c.label),
        make("span", { class: "count" }, at >= 0 ? `${at + 1} of ${list.length}` : ""),
        move(-1, "image before", "←"), move(1, "next image", "→"),
        make("button", { type: "button", "aria-label": "close", onclick: () => dialog.close() }, "✕")),
      make("div", { class: "body" },
        make("div", { class: "whole" }, whole(i), note),
        make("div", { class: "facts" },
          make("dl", {}, ...facts(i).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))])),
          text && make("div", { class: "again" }, make("b", {}, "Again"), copier(text), make("pre", { tabindex: 0 }, make("code", {}, text))))),
      ...c.concepts.map((name) => viewer().strip(name)),
      beside(i));
  }

  function step(by) {
    const next = list[current + by];
    if (next == null) return;
    render(next);
    dialog.querySelectorAll(".bar button")[by < 0 ? 0 : 1].focus();
  }

  function open(i, images) {
    list = images;
    current = Math.max(0, list.indexOf(i));
    render(i);
    dialog.showModal();
  }
  dialog.addEventListener("keydown", (e) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (by && !e.target.closest("pre")) {
      e.preventDefault();
      step(by);
    }
  });
  // a click beside it
  dialog.addEventListener("click", (e) => { if (e.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => viewer().back());
  return { open };
})();
