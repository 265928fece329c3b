"use strict";
(() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  // Whether a server takes the answers as they come.
  const collects = document.querySelector('meta[name="collect"]').content === "yes";
  const PLACE = "cdbench-study-" + study.id;
  const QUESTIONS = ["text", "image"];
  const COLUMNS = ["study", "rater", "name", "booklet", "trial", "question", "choice", "ms", "at", "check"];
  const byId = (id) => document.getElementById(id);
  const stage = byId("stage");

  // What is kept: who answers, which booklet, the answers in their order, how many of them the server has.
  let state = load();
  let memoryOnly = false;
  // The question on the screen: when it could be seen, and whether it takes an answer yet.
  let shown = null;

  function load() {
    try {
      const kept = JSON.parse(localStorage.getItem(PLACE));
      const whole = kept && Array.isArray(kept.answers) && study.booklets[kept.booklet];
      return whole ? kept : null;
    } catch {
      return null;
    }
  }

  function save() {
    try {
      localStorage.setItem(PLACE, JSON.stringify(state));
      memoryOnly = false;
    } catch {
      memoryOnly = true;
    }
  }

  function element(name, properties, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(properties || {})) {
      if (key in made) made[key] = value;
      else made.setAttribute(key, value);
    }
    made.append(...children.filter((c) => c !== null));
    return made;
  }

  const image = (name) => "images/" + name + ".png";
  const steps = () =>
    study.booklets[state.booklet].flatMap((trial) => QUESTIONS.map((question) => ({ trial, question })));

  function random() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
  }

  function crc32(text) {
    let crc = ~0;
    for (const byte of new TextEncoder().encode(text)) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return (~crc >>> 0).toString(16).padStart(8, "0");
  }

  function render(...children) {
    stage.replaceChildren(...children.filter((c) => c !== null));
    window.scrollTo(0, 0);
  }

  function progress() {
    const all = state ? steps().length : 1;
    const done = state ? state.answers.length : 0;
    const percent = Math.round((100 * done) / all);
    byId("done").style.width = percent + "%";
    byId("bar").setAttribute("aria-valuenow", percent);
    byId("place").textContent = state ? Math.min(done + 1, all) + " of " + all : "";
  }

  function say(text, problem) {
    const status = byId("status");
    if (status.textContent !== text) status.textContent = text;
    status.className = problem ? "problem" : "";
  }

  function show() {
    progress();
    shown = null;
    if (!state) return welcome();
    const all = steps();
    if (state.answers.length >= all.length) return finish();
    ask(all[state.answers.length], all[state.answers.length + 1]);
    statusLine();
  }

  function welcome() {
    const name = element("input", { id: "name", maxLength: 80, autocomplete: "off" });
    const go = element("button", { className: "go", id: "start", type: "button" }, "Start");
    const problem = element("p", { className: "problem", role: "alert" });
    go.addEventListener("click", async () => {
      go.disabled = true;
      problem.textContent = "";
      try {
        state = await begin(name.value.trim());
        save();
        show();
      } catch (error) {
        problem.textContent = "This did not work: " + error.message + ". Please try again.";
        go.disabled = false;
      }
    });
    name.addEventListener("keydown", (event) => {
      if (event.key === "Enter") go.click();
    });
    render(
      element("h1", {}, "Which of two images?"),
      element("p", {}, "You will see two images side by side, and two questions about them: which one follows a text better, and which one looks more like the things in some pictures. There is no time limit. If you are not sure, go by your first impression."),
      element("p", {}, "Choose an image by clicking it. ", element("span", { className: "keys" }, "Or use the keyboard: ", element("kbd", {}, "1"), " or ", element("kbd", {}, "←"), " for the left one, ", element("kbd", {}, "2"), " or ", element("kbd", {}, "→"), " for the right one. "), "You can close this page at any time and go on later on the same device."),
      element("label", { htmlFor: "name" }, "Your name or code, if you were given one", name),
      go,
      problem,
    );
    say("");
  }

  async function begin(name) {
    if (collects) {
      const response = await post("api/begin", { name });
      if (!response.ok) throw new Error(await reason(response));
      const { token, rater, booklet } = await response.json();
      return { token, rater, booklet, name, answers: [], sent: 0 };
    }
    const asked = Number(new URLSearchParams(location.search).get("booklet"));
    const count = study.booklets.length;
    const drawn = crypto.getRandomValues(new Uint32Array(1))[0] % count;
    const booklet = Number.isInteger(asked) && asked >= 1 && asked <= count ? asked - 1 : drawn;
    return { rater: random(), booklet, name, answers: [], sent: 0 };
  }

  function ask({ trial, question }, next) {
    const heading =
      question === "text"
        ? "Which image follows this text better?"
        : trial.sets.length > 1
          ? "Which image shows things that look more like these?"
          : "Which image shows something that looks more like this?";
    const about =
      question === "text"
        ? element("p", { className: "text", id: "prompt" }, trial.prompt)
        : element("div", { className: "sets" }, ...trial.sets.map((at) => pictures(study.sets[at])));
    const sides = [
      ["left", "Left", "1", trial.left],
      ["right", "Right", "2", trial.right],
    ];
    const own = { trial, question, ready: false, since: 0 };
    shown = own;
    const buttons = sides.map(([side, word, key, name]) => {
      const picture = element("img", { alt: word + " image", src: image(name), draggable: false });
      const label = element("span", {}, word + " ", element("kbd", {}, key));
      const button = element("button", { className: "choice", type: "button", "aria-disabled": "true" }, picture, label);
      button.dataset.side = side;
      button.addEventListener("click", () => choose(own, side));
      return button;
    });
    render(
      trial.practice ? element("p", { className: "practice" }, "Practice") : null,
      element("h1", { id: "question" }, heading),
      about,
      element("div", { className: "pair", role: "group", "aria-labelledby": "question" }, ...buttons),
    );
    stage.focus({ preventScroll: true });
    Promise.all([...stage.querySelectorAll("img")].map((img) => img.decode())).then(
      () => {
        own.since = performance.now();
        setTimeout(() => {
          own.ready = true;
          buttons.forEach((b) => b.setAttribute("aria-disabled", "false"));
        }, study.minimum);
      },
      () => {
        if (shown !== own) return;
        const again = element("button", { className: "go", type: "button" }, "Try again");
        again.addEventListener("click", show);
        stage.append(element("p", { className: "problem", role: "alert" }, "An image could not be loaded. "), again);
      },
    );
    // the next pair is there when it is asked for
    if (next) [next.trial.left, next.trial.right].forEach((name) => (new Image().src = image(name)));
  }

  function pictures({ title, images }) {
    const imgs = images.map((name, i) =>
      element("img", { src: image(name), alt: (title || "picture") + " " + (i + 1), draggable: false }),
    );
    return element("figure", {}, element("figcaption", {}, title), element("div", {}, ...imgs));
  }

  function choose(own, choice) {
    if (shown !== own || !own.ready) return;
    // another tab may have gone on meanwhile
    const kept = memoryOnly ? null : load();
    if (kept && kept.rater !== state.rater) {
      state = kept;
      return show();
    }
    if (kept && kept.answers.length !== state.answers.length) {
      state = kept;
      return show();
    }
    const answer = {
      study: study.id,
      rater: state.rater,
      name: state.name,
      booklet: state.booklet,
      trial: own.trial.id,
      question: own.question,
      choice,
      ms: Math.round(performance.now() - own.since),
      at: Date.now(),
    };
    const parts = COLUMNS.slice(0, -1).map((column) => answer[column]);
    answer.check = crc32(parts.join("\n"));
    state.answers.push(answer);
    save();
    show();
    send();
  }

  document.addEventListener("keydown", (event) => {
    // a key that is held down answers once
    if (!shown || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    const side = { 1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right" }[event.key];
    if (!side) return;
    event.preventDefault();
    choose(shown, side);
  });

  window.addEventListener("storage", (event) => {
    if (event.key !== PLACE) return;
    const kept = load();
    const moved = !kept || !state || kept.rater !== state.rater || kept.answers.length !== state.answers.length;
    state = kept;
    if (moved) show();
  });

  const post = (path, body) =>
    fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: "Bearer " + (state ? state.token : "") },
      body: JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
    });

  async function reason(response) {
    try {
      return (await response.json()).error;
    } catch {
      return "status " + response.status;
    }
  }

  // Answers go to the server one after the other, again and again until it has them.
  let sending = false;
  let trouble = "";
  let wait = 2000;
  async function send() {
    if (!collects || sending) return;
    sending = true;
    while (state && state.sent < state.answers.length) {
      const { rater } = state;
      const { trial, question, choice, ms } = state.answers[state.sent];
      let response = null;
      try {
        response = await post("api/answer", { trial, question, choice, ms });
      } catch {
        // the server or the network is away
      }
      if (!state || state.rater !== rater) break;
      if (response && (response.ok || response.status === 409)) {
        state.sent += 1;
        save();
        trouble = "";
        wait = 2000;
      } else {
        trouble = response ? await reason(response) : "the server cannot be reached";
        statusLine();
        await new Promise((later) => setTimeout(later, wait));
        wait = Math.min(2 * wait, 60000);
      }
      statusLine();
    }
    sending = false;
    if (state && state.answers.length >= steps().length) finish();
  }

  function statusLine() {
    if (memoryOnly) return say("This browser keeps nothing: please do not close this page before the end.", true);
    if (!state) return say("");
    const left = state.answers.length - state.sent;
    if (collects && trouble) {
      const count = left === 1 ? "1 answer is" : left + " answers are";
      return say(count + " not saved yet, and kept in this browser: " + trouble + ". Trying again.", true);
    }
    say("");
  }

  function finish() {
    progress();
    shown = null;
    byId("place").textContent = "";
    const all = state.answers.length;
    const away = collects && state.sent < all;
    const csv = element("button", { className: "go", id: "csv", type: "button" }, "Answers as CSV");
    const json = element("button", { className: "go other", id: "json", type: "button" }, "Answers as JSON");
    const next = element("button", { className: "go other", id: "next", type: "button" }, "Next person on this device");
    next.disabled = collects ? away : !state.taken;
    const took = () => {
      state.taken = true;
      save();
      next.disabled = away;
    };
    csv.addEventListener("click", () => {
      download("csv", "text/csv", table(state.answers));
      took();
    });
    json.addEventListener("click", () => {
      download("json", "application/json", JSON.stringify(state.answers, null, 1) + "\n");
      took();
    });
    next.addEventListener("click", () => {
      try {
        localStorage.removeItem(PLACE);
      } catch {
        // nothing was kept
      }
      state = null;
      trouble = "";
      show();
    });
    const words = away
      ? "The last answers are being saved: please leave this page open."
      : collects
        ? "All your answers are saved. You can close this page."
        : "Please download your answers, and send the file to the person who asked you.";
    if (collects) csv.classList.add("other");
    render(element("h1", {}, "Thank you!"), element("p", { id: "ending" }, words), csv, json, next);
    statusLine();
  }

  function table(answers) {
    const field = (value) => {
      const text = String(value);
      return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
    };
    const lines = answers.map((answer) => COLUMNS.map((column) => field(answer[column])).join(","));
    return [COLUMNS.join(","), ...lines].join("\r\n") + "\r\n";
  }

  function download(ending, type, text) {
    const url = URL.createObjectURL(new Blob([text], { type }));
    const link = element("a", { href: url, download: "answers-" + state.rater.slice(0, 8) + "." + ending });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  }

  show();
  send();
})();
