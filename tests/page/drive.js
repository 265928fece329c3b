"use strict";
// Uses the page as a person would, and brings what it found to the address that tests/report_page.rs put in
// front of it: a page from a disk may send nothing, but it may be left for another.
(() => {
  const found = [];
  const faults = [];
  addEventListener("error", (e) => faults.push(`${e.message || "not loaded"} ${e.target?.src || ""}`), true);
  addEventListener("unhandledrejection", (e) => faults.push(String(e.reason)));
  addEventListener("securitypolicyviolation", (e) => faults.push(`policy: ${e.violatedDirective} ${e.blockedURI}`));
  const complain = console.error;
  console.error = (...words) => { faults.push(words.join(" ")); complain(...words); };

  const check = (what, holds) => found.push([what, Boolean(holds)]);
  const all = (query, from = document) => [...from.querySelectorAll(query)];
  const one = (query, from = document) => from.querySelector(query);
  const frame = () => new Promise((done) => { setTimeout(done, 50); });
  const scrolled = (scroller) => new Promise((done) => {
    scroller.addEventListener("scroll", () => requestAnimationFrame(() => setTimeout(done, 50)), { once: true });
  });
  const press = (element, key) => element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const choose = async (name, value) => {
    const list = one(`.filters [name="${name}"]`);
    list.value = value;
    list.dispatchEvent(new Event("change", { bubbles: true }));
    await frame();
  };
  const status = () => one(".status").textContent;
  const images = () => parseInt(status().replaceAll(",", ""), 10);
  const tiles = () => all(".scroller .tile").sort((a, b) => {
    const [x, y] = [a.getBoundingClientRect(), b.getBoundingClientRect()];
    return x.top - y.top || x.left - y.left;
  });

  async function tables() {
    const table = one('[data-table="table"] table');
    const column = () => all("tbody", table)[0];
    const values = () => all("tr:not(.section,.rule,.anchor) td:nth-of-type(1)", column())
      .map((td) => parseFloat(td.textContent.replace("−", "-")));
    const before = values();
    const head = () => all("thead button", table)[1];
    head().click();
    const down = values();
    check("a click on a column's name sorts it", down.every((v, i) => !i || v <= down[i - 1]) && String(down) !== String(before));
    check("a reader hears how it is sorted", all("thead th", table)[1].getAttribute("aria-sort") === "descending");
    check("the keyboard stays on the column", document.activeElement === head());
    head().click();
    check("the next click turns it round", values().every((v, i, a) => !i || v >= a[i - 1]));
    head().click();
    check("the third puts it back", String(values()) === String(before));
    const count = all("thead th", table).length;
    one('[data-table="table"] .columns input').click();
    check("a column can be hidden", all("thead th", table).length === count - 1);
    one('[data-table="table"] .columns input').click();
    check("and shown again", all("thead th", table).length === count);
    one(".options input").click();
    check("intervals by their ends", / to /.test(one("td .half", table).textContent));
    one(".options input").click();
    check("the paper's values are beside", all("td.paper", table).some((td) => /\d/.test(td.textContent)));
  }

  async function figures() {
    const panel = one('[data-figure="scatter"] .panel');
    const marks = all('[role="button"]', panel);
    check("one mark of a panel can be tabbed to", marks.filter((m) => m.tabIndex === 0).length === 1);
    one('[role="button"][tabindex="0"]', panel).focus();
    press(document.activeElement, "ArrowRight");
    const tip = one("#tip");
    check("the keyboard finds marks", !tip.hidden && /\d\.\d/.test(tip.textContent) && /cell/.test(tip.textContent));
    press(document.activeElement, "Escape");
    check("Escape hides what is said", tip.hidden);
    const box = marks[3].getBoundingClientRect();
    panel.dispatchEvent(new PointerEvent("pointermove", { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 }));
    check("the pointer finds marks", !tip.hidden && /\d\.\d/.test(tip.textContent));
    const entry = one('[data-figure="scatter"] .legend button');
    entry.click();
    check("a row can be hidden", marks.some((m) => m.style.display === "none"));
    entry.click();
    check("and shown", marks.every((m) => m.style.display !== "none"));
    press(marks[0], "Enter");
    await frame();
  }

  async function viewer() {
    const data = window.cdbench;
    const count = data.samples.images.cell.length;
    all(".methods button")[0].click();
    await choose("set", "");
    check("all images are there", images() === count);
    check("few of them are on the page", tiles().length > 4 && tiles().length < 200);
    const drawn = getComputedStyle(one(".scroller .thumb")).backgroundImage;
    check("a thumbnail is drawn", /page\/sheets\/[0-9a-f]+\.jpg/.test(drawn));
    const set = one('.filters [name="set"]').options[2].value;
    await choose("set", set);
    const of = (i) => data.cells[data.samples.images.cell[i]];
    const own = data.samples.images.cell.filter((c) => `${data.cells[c].group}: ${data.cells[c].concepts.join(" + ")}` === set).length;
    check("a concept can be chosen", images() === own && own < count);
    check("its targets are in view", one(".targets").textContent.includes(of(Number(tiles()[0].dataset.i)).concepts[0])
      && all(".targets .target").length > 0);
    const text = one('.filters [name="prompt"]').options[1].value;
    await choose("prompt", text);
    const some = images();
    check("a prompt can be chosen", some < own && tiles().every((t) => t.getAttribute("aria-label").includes(text)));
    const seed = one('.filters [name="seed"]').options[1].value;
    await choose("seed", seed);
    const row = tiles();
    check("a seed can be chosen", images() < some && images() === row.length);
    check("the same prompt and seed are side by side", new Set(row.map((t) => t.getBoundingClientRect().top)).size === 1
      && new Set(row.map((t) => of(Number(t.dataset.i)).label)).size === row.length);
    all(".methods label:not([hidden]) input")[0].click();
    await frame();
    check("a method can be left out", tiles().length === row.length - 1);
    all(".methods button")[0].click();

    await choose("set", "");
    const metric = data.metrics.find((m) => m.images);
    await choose("sort", `${metric.name}+`);
    one('.layout input[value="true"]').click();
    await frame();
    const value = (i) => data.samples.images.values[metric.name][i];
    const order = () => tiles().map((t) => value(Number(t.dataset.i)));
    const best = Math.max(...data.samples.images.values[metric.name].filter((v) => v != null));
    check("the best come first", order()[0] === best && order().every((v, i, a) => !i || v <= a[i - 1]));
    await choose("sort", `${metric.name}-`);
    check("or the worst", order()[0] < best && order().every((v, i, a) => !i || v >= a[i - 1]));
    await choose("sort", "");
    one('.layout input[value="false"]').click();
    await frame();

    const scroller = one(".scroller");
    scroller.scrollTop = scroller.scrollHeight;
    await scrolled(scroller);
    const last = Number(tiles().at(-1).dataset.i);
    check("it scrolls to the last image", last === count - 1);
    scroller.scrollTop = 0;
    await scrolled(scroller);
    tiles()[0].focus();
    press(document.activeElement, "ArrowRight");
    const second = document.activeElement;
    check("arrow keys go from image to image", second === tiles()[1]);
    press(document.activeElement, "ArrowDown");
    check("and from row to row", document.activeElement.getBoundingClientRect().top > second.getBoundingClientRect().top);
    check("one image can be tabbed to", all('.scroller .tile[tabindex="0"]').length === 1);
    press(document.activeElement, "End");
    document.activeElement.click();
    const dialog = one("dialog");
    const i = Number(document.activeElement.dataset?.i ?? -1);
    check("a click shows it whole", dialog.open && /^page\/images\//.test(one("img", dialog).getAttribute("src")));
    await one("img", dialog).decode();
    check("the whole image is there", one("img", dialog).naturalWidth > 0);
    const facts = dialog.textContent;
    for (const what of ["Prompt", "Seed", "Checkpoint", "Cell", "Again"]) check(`${what} is said`, facts.includes(what));
    check("its scores are said", all("dd", dialog).some((d) => /^\d\.\d+/.test(d.textContent)));
    check("its command is said", one("code", dialog).textContent.startsWith("cdbench "));
    check("its targets are beside", one(".strip", dialog));
    const title = one("h3", dialog).textContent + facts;
    press(dialog, "ArrowLeft");
    check("an arrow key shows the one before", one("h3", dialog).textContent + dialog.textContent !== title);
    dialog.close();
    await frame();
    check("the keyboard is back in the viewer", document.activeElement.classList.contains("tile"), i);
  }

  function texts() {
    check("no text became HTML", !window.evil && !one("#evil") && all("main script, dialog script").length === 0);
    check("texts are shown as they are", document.body.textContent.includes("<img id=evil"));
  }

  function requests() {
    const base = new URL(".", location.href).href;
    const asked = performance.getEntriesByType("resource").map((e) => e.name);
    check("nothing outside of the folder was asked for", (location.protocol === "file:" || asked.length > 5) && asked.every((url) => url.startsWith(base)));
    const links = all("a[href]").map((a) => a.href).filter((url) => !url.startsWith(base));
    check("no link leaves the folder", links.length === 0);
    const named = all("input, select, button").every((e) => e.closest("label")?.textContent.trim()
      || e.getAttribute("aria-label") || e.textContent.trim());
    check("all controls have names", named);
  }

  addEventListener("load", async () => {
    for (const part of [tables, figures, viewer, texts, requests]) {
      try {
        await part();
      } catch (e) {
        faults.push(`${part.name}: ${e.stack}`);
      }
    }
    location.href = `${window.driven}verdict?${encodeURIComponent(JSON.stringify({ found, faults }))}`;
  });
})();
