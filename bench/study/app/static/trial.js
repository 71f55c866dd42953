// One trial: pictures of equal size, zoom and flicker in step, the keyboard, the clock.
//
// All pictures are fetched from opaque addresses and shown together once the last one is decoded: no address, no
// name, no size and no moment tells one from another. The next trial's are fetched while this one is looked at.
// Texts are set as text, never as markup; the page's own words come from the server, in the study's language. The clock is monotonic: it runs while the pictures can be seen, so
// neither a pause nor a set clock counts.

const FLICKER_MS = 700; // well below three flashes a second
const SETTLE_MS = 250; // an answer within this time was meant for the trial before
const UNDO_MS = 2000; // an answer can be taken back for so long; then it is sent
const TWICE_MS = 400; // a second press within this time is a double click
const RESEND_MS = 8000;
const RETRY_MS = 1000;
const MAX_ZOOM = 8;

const views = new WeakMap();

export default function (component) {
  const { parentElement } = component;
  let view = views.get(parentElement);
  if (!view) {
    view = new View(parentElement);
    views.set(parentElement, view);
  }
  view.update(component);
  // Streamlit calls this when the element goes, and between updates as well: what comes back is started again.
  return () => view.sleep();
}

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// True where the levels of a scale say when they fit.
function means(scale) {
  return scale.levels.some(([, text]) => text);
}

function button(className, label, onPress, key) {
  const node = make("button", className, make("span", "word", label));
  node.type = "button";
  if (key) {
    node.append(make("kbd", "", key));
    node.setAttribute("aria-keyshortcuts", key);
  }
  node.addEventListener("click", (event) => {
    onPress(event);
    // After a click with the pointer, the button must not react to the space bar.
    if (event.detail > 0) node.blur();
  });
  return node;
}

class Clock {
  // Visible milliseconds of one trial; a reload of the page goes on from where it was.
  constructor(trial) {
    this.slot = `peb-clock-${trial}`;
    this.total = 0;
    this.reloads = 0;
    this.started = null;
    try {
      const kept = JSON.parse(sessionStorage.getItem(this.slot));
      if (kept && kept.total >= 0) {
        this.total = kept.total;
        this.reloads = kept.reloads + 1;
      }
    } catch {
      // Storage may be forbidden. Then a reload starts the clock at 0.
    }
  }

  run() {
    if (this.started === null) this.started = performance.now();
  }

  read() {
    return this.total + (this.started === null ? 0 : performance.now() - this.started);
  }

  stop() {
    if (this.started === null) return;
    this.total += performance.now() - this.started;
    this.started = null;
    try {
      sessionStorage.setItem(this.slot, JSON.stringify({ total: this.total, reloads: this.reloads }));
    } catch {
      // See above.
    }
  }

  forget() {
    try {
      sessionStorage.removeItem(this.slot);
    } catch {
      // See above.
    }
  }
}

class Loader {
  // Pictures by address. Each is fetched once, and a failed request is repeated until it succeeds.
  constructor() {
    this.files = new Map();
  }

  get(address) {
    if (!this.files.has(address)) {
      const stop = new AbortController();
      const file = { stop, url: null, loaded: null };
      file.loaded = this.fetch(address, file).catch((error) => {
        this.files.delete(address); // the next call fetches it again
        throw error;
      });
      file.loaded.catch(() => {}); // nothing may be waiting for a picture that is fetched in advance
      this.files.set(address, file);
    }
    return this.files.get(address).loaded;
  }

  async fetch(address, file) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        const answer = await fetch(new URL(address, document.baseURI), { signal: file.stop.signal });
        if (answer.ok) {
          file.url = URL.createObjectURL(await answer.blob());
          return file.url;
        }
        if (answer.status === 404 || answer.status === 410) throw new Error("gone");
      } catch (error) {
        if (file.stop.signal.aborted || error.message === "gone") throw error;
      }
      await new Promise((done) => setTimeout(done, RETRY_MS * Math.min(8, 2 ** attempt)));
    }
  }

  keep(addresses) {
    for (const [address, file] of this.files) {
      if (addresses.includes(address)) continue;
      this.files.delete(address);
      file.stop.abort();
      if (file.url) URL.revokeObjectURL(file.url);
    }
  }
}

class View {
  constructor(parent) {
    this.root = make("div", "trial");
    parent.append(this.root);
    this.outline = true;
    this.loader = new Loader();
    this.clocks = new Map();
    this.wake();
  }

  wake() {
    if (this.listening) return;
    this.listening = new AbortController();
    const { signal } = this.listening;
    window.addEventListener("keydown", (event) => this.onKey(event), { signal });
    window.addEventListener("resize", () => this.arrange(), { signal });
    document.addEventListener("visibilitychange", () => {
      // Whoever leaves has answered.
      if (document.visibilityState === "hidden") this.commit();
      this.tick();
    }, { signal });
    window.addEventListener("pagehide", () => {
      this.commit();
      this.clock?.stop();
    }, { signal });
  }

  sleep() {
    this.listening?.abort();
    this.listening = null;
    this.setFlicker(false);
    clearTimeout(this.resend);
    clearTimeout(this.undoing);
    this.clock?.stop();
  }

  update({ data, setTriggerValue }) {
    this.wake();
    this.send = setTriggerValue;
    if (!data) return;
    const stamp = JSON.stringify([data.trial.id, data.feedback, data.notice, data.round, data.changing]);
    if (stamp === this.stamp) {
      this.data.next = data.next;
      this.ahead();
      if (this.busy) this.schedule();
      if (this.held) this.hold();
      this.tick();
      return;
    }
    const same = this.data && this.data.trial.id === data.trial.id && JSON.stringify(this.data.changing) === JSON.stringify(data.changing);
    this.stamp = stamp;
    this.data = data;
    this.busy = false;
    this.pending = null;
    clearTimeout(this.resend);
    this.held = null;
    clearTimeout(this.undoing);
    if (same && !data.feedback) {
      this.showNotice();
      this.drawAnswers();
      this.setBusy(false);
      if (!this.ready) this.load();
      this.tick();
      return;
    }
    if (same) {
      this.showFeedback();
      return;
    }
    this.begin();
  }

  // A text of the page in the study's language, with its placeholders filled in.
  t(key, values = {}) {
    return this.data.words[key].replace(/\{(\w+)\}/g, (place, name) => values[name] ?? place);
  }

  // --- a new trial ------------------------------------------------------------------------------------

  begin() {
    const { trial, pictures } = this.data;
    this.clock?.stop();
    this.setFlicker(false);
    // The open trial is left and comes back while the answer before it is changed.
    if (!this.clocks.has(trial.id)) this.clocks.set(trial.id, new Clock(trial.id));
    this.clock = this.clocks.get(trial.id);
    this.used = { zoomed: 0, flickered: 0, enlarged: 0, paused: 0, undone: 0 };
    this.zoom = { scale: 1, u: 0, v: 0 };
    this.ready = false;
    this.paused = false;
    this.marked = null;
    this.held = null;
    this.urls = null;
    this.full = null;
    clearTimeout(this.undoing);
    this.root.classList.remove("held");
    this.figures = [];
    this.drawPage(trial);
    this.arrange();
    this.focusQuestion();
    this.load();
    if (this.data.feedback) this.showFeedback();
    if (this.data.changing !== null) this.markPrevious();
  }

  // The answer that counts so far, while it is being changed.
  markPrevious() {
    for (const node of this.root.querySelectorAll(".answer")) {
      node.classList.toggle("previous", node.dataset.answer === String(this.data.changing));
    }
  }

  // Back to the last answer, or away from it without a change.
  change(on) {
    if (this.busy || this.data.feedback || on === (this.data.changing !== null) || (on && !this.data.back)) return;
    this.undo();
    this.busy = true;
    this.setFlicker(false);
    this.setBusy(true);
    this.tick();
    this.dispatch(on ? "back" : "keep", { trial: this.data.trial.id });
  }

  // Shows the pictures of the trial, all at once, when the last of them is decoded.
  load() {
    const { pictures } = this.data;
    const stage = this.root.querySelector(".stage");
    const images = [...stage.querySelectorAll("img")];
    const round = (this.round = {});
    this.loader.keep([...pictures, ...this.data.full, ...this.data.next]);
    Promise.all(pictures.map((address) => this.loader.get(address)))
      .then((urls) => {
        if (round !== this.round) return null;
        this.urls = urls;
        for (const image of images) image.src = urls[Number(image.dataset.slot)];
        return Promise.all(images.map((image) => image.decode()));
      })
      .then((decoded) => {
        if (round !== this.round || !decoded) return;
        stage.classList.add("shown");
        this.ahead();
        requestAnimationFrame(() => {
          this.ready = true;
          this.readyAt = performance.now();
          this.setBusy(this.busy);
          this.tick();
        });
      })
      .catch(() => {
        // The server looks at the files again, and gives another trial where one of them was changed.
        setTimeout(() => {
          if (round === this.round) this.dispatch("lost", { trial: this.data.trial.id });
        }, RETRY_MS);
      });
  }

  // Replaces large pictures by those with all of their pixels, all at once, when the rater looks closer.
  loadFull() {
    const { full } = this.data;
    if (!full.length || this.full === this.data.trial.id || !this.ready) return;
    this.full = this.data.trial.id;
    const trial = this.full;
    Promise.all(full.map((address) => this.loader.get(address)))
      .then((urls) => {
        if (trial !== this.data.trial.id) return;
        this.urls = urls;
        for (const image of this.root.querySelectorAll("img[data-slot]")) image.src = urls[Number(image.dataset.slot)];
      })
      .catch(() => {
        this.full = null; // the next zoom tries again
      });
  }

  // Fetches the pictures of the next trial, once those of this one are there.
  ahead() {
    if (!this.root.querySelector(".stage.shown")) return;
    this.loader.keep([...this.data.pictures, ...this.data.full, ...this.data.next]);
    for (const address of this.data.next) this.loader.get(address);
  }

  // The pressed button is gone. Screen readers and the Tab key continue from the question.
  focusQuestion() {
    const active = document.activeElement;
    if (active && active !== document.body && active !== this.root.getRootNode().host) return;
    this.root.querySelector(".question").focus({ preventScroll: true });
  }

  drawPage(trial) {
    const { title } = this.data;
    this.root.dir = this.data.direction;
    this.root.lang = this.data.language;
    this.root.dataset.kind = trial.kind;
    this.root.dataset.trial = trial.id;
    this.root.dataset.practice = trial.practice;

    const done = (trial.number - 1) / Math.max(1, trial.total);
    const fill = make("i");
    fill.style.width = `${Math.round(100 * done)}%`;
    const track = make("div", "track", fill);
    track.setAttribute("role", "progressbar");
    track.setAttribute("aria-label", this.t("progress"));
    track.setAttribute("aria-valuemin", "0");
    track.setAttribute("aria-valuemax", String(trial.total));
    track.setAttribute("aria-valuenow", String(trial.number - 1));
    const where = this.t(trial.practice ? "practice" : "question", { n: trial.number, total: trial.total });
    track.setAttribute("aria-valuetext", where);
    const count = make("span", "count", where);
    count.setAttribute("aria-live", "polite");
    const name = make("span", "title", title);
    name.dir = "auto";
    const changing = this.data.changing !== null;
    let change = null;
    if (changing) change = button("quiet keep", this.t("keep"), () => this.change(false), "Esc");
    else if (this.data.back) change = button("quiet back", this.t("change"), () => this.change(true), "Z");
    const bar = make("header", "bar", name, make("div", "progress", count, track),
      make("div", "menu", change, button("quiet", this.t("help"), () => this.openHelp(), "?"), button("quiet", this.t("pause"), () => this.openPause(), "P")));

    const asked = make("h1", "question", trial.question);
    asked.dir = "auto";
    asked.tabIndex = -1;
    const brief = make("div", "brief");
    for (const [label, text, kind] of trial.brief) {
      const body = make("p", "said", text);
      body.dir = "auto";
      body.tabIndex = text.length > 300 ? 0 : -1;
      brief.append(make("div", `line ${kind}`, make("span", "label", label), body));
    }
    const hint = make("p", "hint", trial.hint);
    hint.dir = "auto";
    const ask = make("section", "ask", asked, hint, brief);

    const stage = make("section", "stage");
    stage.dir = "ltr"; // left is left in every language: the arrow keys choose by it
    stage.append(this.drawSource());
    trial.labels.forEach((label, index) => stage.append(this.drawCandidate(label, index)));
    stage.append(this.drawTools());

    this.notice = make("p", "notice");
    this.notice.setAttribute("role", "status");
    this.answers = make("div", "answers");
    stage.append(this.answers);
    this.live = make("p", "unseen");
    this.live.setAttribute("role", "status");
    this.root.replaceChildren(bar, ask, this.notice, stage, this.live);
    this.drawAnswers();
    this.showNotice();
    this.setBusy(true);
  }

  picture(index, alt) {
    const image = make("img");
    image.dataset.slot = String(index);
    if (this.urls) image.src = this.urls[index];
    image.alt = alt;
    image.draggable = false;
    image.width = this.data.size[0];
    image.height = this.data.size[1];
    return image;
  }

  frame(images, index) {
    const frame = make("div", "frame", ...images);
    frame.dataset.loading = this.t("loading");
    const expand = button("expand", "⤢", () => this.openBox(index));
    expand.setAttribute("aria-label", this.enlargeName(index));
    expand.title = this.t("enlarge");
    frame.append(expand);
    this.bindZoom(frame, index);
    return frame;
  }

  drawSource() {
    const plain = this.picture(0, this.t("picture"));
    const marked = this.picture(1, this.t("outlined"));
    plain.classList.add("plain");
    marked.classList.add("outlined");
    const frame = this.frame([plain, marked], 0);
    const figure = make("figure", "source", make("figcaption", "", make("span", "chip", this.t("original"))), frame);
    figure.classList.toggle("outline", this.outline);
    this.source = figure;
    this.figures.push(figure);
    return figure;
  }

  drawCandidate(label, index) {
    const edit = this.picture(2 + index, this.editName(label));
    const before = this.picture(0, "");
    before.classList.add("before");
    const chip = make("span", "chip", label);
    chip.dataset.label = label;
    const figure = make("figure", "candidate", make("figcaption", "", chip), this.frame([edit, before], index + 1));
    figure.dataset.position = String(index);
    this.figures.push(figure);
    return figure;
  }

  editName(label) {
    return this.data.trial.kind === "rate" ? label : this.t("edit_of", { label });
  }

  enlargeName(index) {
    if (index === 0) return this.t("enlarge_original");
    const label = this.data.trial.labels[index - 1];
    return this.data.trial.kind === "rate" ? `${this.t("enlarge")}: ${label}` : this.t("enlarge_edit", { label });
  }

  drawTools() {
    this.scaleText = make("output", "scale", "100%");
    const less = button("tool", "−", () => this.zoomBy(1 / 1.5));
    less.setAttribute("aria-label", this.t("zoom_out"));
    const more = button("tool", "+", () => this.zoomBy(1.5));
    more.setAttribute("aria-label", this.t("zoom_in"));
    this.flickerButton = button("tool wide flicker", this.t("flicker"), () => this.setFlicker(!this.flickering), "F");
    this.flickerButton.title = this.t("flicker_title");
    this.outlineButton = button("tool wide", this.t("outline"), () => this.setOutline(!this.outline), "O");
    this.outlineButton.setAttribute("aria-pressed", String(this.outline));
    this.flickerButton.setAttribute("aria-pressed", "false");
    this.undoButton = button("tool undo", this.t("undo"), () => this.undo(), "Z");
    this.undoButton.title = this.t("undo_title");
    return make("div", "tools", make("div", "group", less, this.scaleText, more), this.flickerButton, this.outlineButton, this.undoButton);
  }

  drawAnswers() {
    const { trial } = this.data;
    this.answers.replaceChildren();
    if (trial.kind === "rate") {
      this.drawScales();
      return;
    }
    if (trial.kind === "best") {
      const row = trial.labels.map((label, index) => this.answerButton(index, label, index < 9 ? String(index + 1) : null));
      this.answers.append(make("span", "lead", this.t("best_is")), ...row);
      return;
    }
    this.answers.append(this.answerButton(0, trial.labels[0], "←"));
    if (trial.tie) this.answers.append(this.answerButton("tie", this.t("tie"), "N"));
    if (trial.bothBad) this.answers.append(this.answerButton("both bad", this.t("both_bad"), "X"));
    this.answers.append(this.answerButton(1, trial.labels[1], "→"));
    this.root.classList.toggle("four", trial.tie && trial.bothBad);
  }

  // --- ratings: one group of levels per scale, answered in turn by the digits ---------------------------

  drawScales() {
    const { scales, id } = this.data.trial;
    this.ratings = [...(this.data.changing ?? scales.map(() => null))];
    const groups = scales.map((scale, number) => {
      const legend = make("legend", "", scale.question);
      legend.dir = "auto";
      const levels = scale.levels.map(([label, means], position) => {
        const input = make("input");
        input.type = "radio";
        input.name = `scale-${id}-${number}`;
        input.checked = this.ratings[number] === position;
        input.addEventListener("change", () => this.rate(number, position));
        const text = make("span", "level", make("b", "", label), means ? make("small", "", means) : null);
        const node = make("label", "option", input, text, make("kbd", "", String(position + 1)));
        node.dir = "auto";
        return node;
      });
      const group = make("fieldset", means(scale) ? "rating wordy" : "rating", legend, make("div", "levels", ...levels));
      group.dataset.scale = String(number);
      return group;
    });
    this.sendButton = button("answer next", this.t("next"), () => this.submit("button"), "⏎");
    this.answers.append(...groups, this.sendButton);
    this.showScales();
  }

  rate(number, position) {
    if (!this.ready || this.busy || this.paused || this.data.feedback) return;
    if (this.ratings[number] !== null && this.ratings[number] !== position) this.used.undone += 1;
    this.ratings[number] = position;
    const input = this.answers.querySelectorAll(`[data-scale="${number}"] input`)[position];
    input.checked = true;
    this.showScales();
  }

  // The first scale without an answer is the one that the digits answer.
  showScales() {
    const open = this.ratings.indexOf(null);
    for (const group of this.answers.querySelectorAll(".rating")) {
      group.classList.toggle("open", Number(group.dataset.scale) === open);
    }
    this.sendButton.disabled = open >= 0 || this.busy || !this.ready;
  }

  submit(by) {
    if (!this.ready || this.busy || this.paused || this.data.feedback || this.ratings.includes(null)) return;
    this.held = { value: this.ratings, by, at: performance.now(), ms: Math.round(this.clock.read()) };
    this.commit();
  }

  onRateKey(key, press) {
    const { scales } = this.data.trial;
    if (key === "Enter") press(() => this.submit("key"));
    else if (key === "Backspace") {
      press(() => {
        // Back to the scale before, to answer it again.
        const open = this.ratings.indexOf(null);
        const last = (open < 0 ? scales.length : open) - 1;
        if (last < 0) return;
        this.ratings[last] = null;
        for (const input of this.answers.querySelectorAll(`[data-scale="${last}"] input`)) input.checked = false;
        this.showScales();
      });
    } else if (/^[1-9]$/.test(key)) {
      const open = this.ratings.indexOf(null);
      if (open >= 0 && Number(key) <= scales[open].levels.length) press(() => this.rate(open, Number(key) - 1));
    }
  }

  answerButton(value, label, key) {
    const node = button(typeof value === "string" ? "answer tie" : "answer", label, () => this.answer(value, "button"), key);
    node.dataset.answer = String(value);
    return node;
  }

  // Pictures as large as the window allows, all alike, on whole device pixels. The edits of a pair always stand
  // in one row: beside the original, or on a phone held upright below it.
  arrange() {
    if (!this.data || !this.root.isConnected) return;
    const [width, height] = this.data.size;
    const rate = this.data.trial.kind === "rate";
    const across = this.root.clientWidth;
    const narrow = across < 480 || (across < 680 && window.innerHeight > 0.75 * across);
    const short = !narrow && window.innerHeight < 620;
    this.root.classList.toggle("narrow", narrow); // a narrow page has another padding
    this.root.classList.toggle("short", short);
    const style = getComputedStyle(this.root);
    // Beside the pictures of a rating stand its scales.
    const beside = rate && !narrow ? Math.min(460, 0.36 * across) : 0;
    this.root.style.setProperty("--beside", `${beside}px`);
    const room = across - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - beside;
    if (room <= 0) return;
    const count = this.figures.length;
    const pair = this.data.trial.kind !== "best";
    const gap = narrow ? 10 : short ? 12 : 20;
    this.root.classList.toggle("beside", rate && !narrow);
    const rest = [".bar", ".ask", ".notice"].map((name) => this.root.querySelector(name));
    const above = this.root.getBoundingClientRect().top + window.scrollY;
    const used = rest.reduce((sum, node) => sum + node.offsetHeight, Math.max(0, above));
    // Below the pictures: tools and answers in one row, or in two.
    const below = short ? (pair ? 50 : 100) : pair ? 86 : 140; // the scales of a rating stand beside
    const tall = window.innerHeight - used - below - (short ? 10 : 24);
    const aspect = height / width;
    const caption = short ? 26 : 34;
    let side = 0;
    let columns = 2;
    const options = narrow ? [2] : pair ? [count] : Array.from({ length: count }, (_, index) => index + 1);
    for (const some of options) {
      const rows = Math.ceil((narrow ? count + 1 : count) / some);
      const wide = (room - gap * (some - 1 + (beside ? 1 : 0))) / some;
      const high = (tall - rows * (caption + 8)) / rows / aspect;
      // On a phone the page may scroll, so that pictures do not become too small.
      const least = (short ? 110 : 150) / Math.max(1, aspect);
      const fit = narrow ? wide : Math.min(wide, Math.max(high, least), 620);
      if (fit > side) {
        side = fit;
        columns = some;
      }
    }
    this.root.classList.toggle("tiny", short && side < 200);
    const ratio = window.devicePixelRatio || 1;
    const times = (side * ratio) / width;
    // Whole pixels where that costs little.
    const whole = (Math.floor(times) * width) / ratio;
    if (times >= 2 && (!(narrow || short) || whole > 0.94 * side)) side = whole;
    this.root.classList.toggle("crisp", times >= 3);
    this.root.style.setProperty("--side", `${side}px`);
    this.root.style.setProperty("--tall", `${side * aspect}px`);
    this.root.style.setProperty("--aspect", String(width / height));
    this.root.style.setProperty("--columns", String(columns));
    this.root.style.setProperty("--gap", `${gap}px`);
    this.root.style.setProperty("--wide", `${Math.max(columns * side + (columns - 1) * gap + (beside ? beside + gap : 0), narrow || short ? 0 : 760)}px`);
  }

  // --- the clock, and what may be pressed when ---------------------------------------------------------

  tick() {
    const seen = this.ready && !this.paused && !this.busy && !this.data.feedback && document.visibilityState === "visible";
    if (seen) this.clock.run();
    else this.clock?.stop();
  }

  setBusy(busy) {
    const blocked = busy || !this.ready;
    this.root.classList.toggle("busy", Boolean(busy && this.ready));
    this.root.dataset.ready = String(!blocked && !this.data.feedback);
    for (const node of this.root.querySelectorAll(".answer")) node.disabled = blocked;
    if (this.data.trial.kind === "rate" && !this.data.feedback) this.showScales();
  }

  showNotice() {
    const changing = this.data.changing !== null ? this.t("changing") : "";
    this.notice.textContent = this.data.notice || changing;
    this.notice.hidden = !this.notice.textContent;
  }

  // An answer is held back for a moment, in which it can be undone or changed; only then is it sent.
  answer(value, by) {
    if (!this.ready || this.busy || this.paused || this.data.feedback) return;
    const now = performance.now();
    if (now - this.readyAt < SETTLE_MS) return;
    if (value === "tie" && !this.data.trial.tie) return;
    if (value === "both bad" && !this.data.trial.bothBad) return;
    if (this.held && this.held.value === value) {
      // The same again: no need to wait.
      if (now - this.held.at > TWICE_MS) this.commit();
      return;
    }
    if (this.held) this.used.undone += 1;
    this.setFlicker(false);
    this.held = { value, by, at: now, ms: Math.round(this.clock.read()) };
    this.showChoice(value);
    const answer = { tie: this.t("tie"), "both bad": this.t("both_bad") }[value] ?? this.data.trial.labels[value];
    this.live.textContent = this.t("press_undo", { answer });
    this.hold();
  }

  hold() {
    clearTimeout(this.undoing);
    this.undoing = setTimeout(() => this.commit(), Math.max(0, this.held.at + UNDO_MS - performance.now()));
  }

  undo() {
    if (!this.held) return;
    clearTimeout(this.undoing);
    this.held = null;
    this.used.undone += 1;
    this.showChoice(null);
    this.live.textContent = this.t("taken_back");
    this.focusQuestion();
  }

  showChoice(value) {
    this.root.classList.toggle("held", value !== null);
    for (const figure of this.root.querySelectorAll("figure.candidate")) {
      figure.classList.toggle("chosen", figure.dataset.position === String(value));
    }
    for (const node of this.root.querySelectorAll(".answer")) {
      node.classList.toggle("chosen", node.dataset.answer === String(value));
    }
  }

  commit() {
    if (!this.held) return;
    const { value, by, ms } = this.held;
    clearTimeout(this.undoing);
    this.held = null;
    this.root.classList.remove("held");
    this.clock.stop();
    this.busy = true;
    this.setFlicker(false);
    this.setBusy(true);
    const message = {
      trial: this.data.trial.id,
      answer: value,
      change: this.data.changing !== null,
      ms,
      details: {
        by,
        ...this.used,
        reloads: this.clock.reloads,
        width: window.innerWidth,
        height: window.innerHeight,
        side: Math.round(parseFloat(this.root.style.getPropertyValue("--side")) || 0),
        ratio: Math.round(100 * (window.devicePixelRatio || 1)) / 100,
        touch: matchMedia("(pointer: coarse)").matches,
      },
    };
    this.clock.forget();
    this.clocks.delete(message.trial);
    this.dispatch("answer", message);
  }

  // Sends until the server has answered with something new: storing is idempotent, so a second time does no harm.
  dispatch(name, message) {
    this.pending = { name, message, attempt: 0 };
    this.send(name, { ...message, attempt: 0 });
    this.schedule();
  }

  schedule() {
    clearTimeout(this.resend);
    const { pending } = this;
    if (!pending) return;
    this.resend = setTimeout(() => {
      pending.attempt += 1;
      this.notice.textContent = this.t("saving");
      this.notice.hidden = false;
      this.send(pending.name, { ...pending.message, attempt: pending.attempt });
      this.schedule();
    }, RESEND_MS * Math.min(6, pending.attempt + 1));
  }

  showFeedback() {
    const { feedback, trial } = this.data;
    this.busy = false;
    this.root.classList.remove("busy");
    this.root.dataset.ready = "false";
    const next = button("answer next", this.t("next"), () => this.next(), "→");
    const box = make("div", feedback.correct ? "feedback good" : "feedback bad",
      make("strong", "", this.t(feedback.correct ? "expected" : "look_again")), make("p", "", feedback.text));
    box.setAttribute("role", "status");
    this.answers.replaceChildren(box, next);
    for (const figure of this.root.querySelectorAll("figure.candidate")) {
      figure.classList.toggle("right", figure.dataset.position === String(feedback.best));
    }
    this.root.dataset.feedback = trial.id;
    next.focus({ preventScroll: true });
  }

  next() {
    if (this.busy) return;
    this.busy = true;
    delete this.root.dataset.feedback;
    this.dispatch("next", { trial: this.data.trial.id });
  }

  // --- zoom: all pictures show the same part ------------------------------------------------------------

  bindZoom(frame, index) {
    const pointers = new Map();
    let moved = 0;
    let spread = 0;
    const at = (event) => {
      const box = frame.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    frame.addEventListener("wheel", (event) => {
      if (this.data.trial.kind !== "pair" && this.zoom.scale === 1 && !event.ctrlKey) return;
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 300), at(event));
    }, { passive: false });
    frame.addEventListener("pointerdown", (event) => {
      if (event.target.closest("button") || event.button > 0) return;
      pointers.set(event.pointerId, at(event));
      moved = pointers.size > 1 ? 1 : 0;
      spread = 0;
      if (this.zoom.scale > 1 || pointers.size > 1) frame.setPointerCapture(event.pointerId);
    });
    frame.addEventListener("pointermove", (event) => {
      if (!pointers.has(event.pointerId)) return;
      const now = at(event);
      const [x, y] = pointers.get(event.pointerId);
      pointers.set(event.pointerId, now);
      moved += Math.hypot(now[0] - x, now[1] - y);
      if (pointers.size === 2) {
        const [one, two] = [...pointers.values()];
        const apart = Math.hypot(one[0] - two[0], one[1] - two[1]);
        if (spread > 0) this.zoomBy(apart / spread, [(one[0] + two[0]) / 2, (one[1] + two[1]) / 2]);
        spread = apart;
      } else if (this.zoom.scale > 1) {
        this.zoom.u -= (now[0] - x) / this.zoom.scale;
        this.zoom.v -= (now[1] - y) / this.zoom.scale;
        this.applyZoom();
      }
    });
    const end = (event) => {
      if (!pointers.delete(event.pointerId)) return;
      if (event.type !== "pointerup" || moved > 0.02 || pointers.size) return;
      if (frame.classList.contains("large")) this.toggleZoom(at(event));
      else if (event.pointerType === "touch") this.openBox(index);
      else this.toggleZoom(at(event));
    };
    frame.addEventListener("pointerup", end);
    frame.addEventListener("pointercancel", end);
  }

  toggleZoom(point) {
    this.zoomBy(this.zoom.scale > 1 ? 0 : 3, point);
  }

  zoomBy(factor, [x, y] = [0.5, 0.5]) {
    const { scale, u, v } = this.zoom;
    const next = Math.min(MAX_ZOOM, Math.max(1, factor === 0 ? 1 : scale * factor));
    // The point of the picture under the pointer stays under it.
    this.zoom = { scale: next, u: u + x / scale - x / next, v: v + y / scale - y / next };
    if (next > 1) this.loadFull();
    if (next > 1) this.used.zoomed = Math.max(this.used.zoomed, Math.round(next * 100) / 100);
    this.applyZoom();
  }

  applyZoom() {
    const { scale } = this.zoom;
    const most = 1 - 1 / scale;
    const u = (this.zoom.u = Math.min(most, Math.max(0, this.zoom.u)));
    const v = (this.zoom.v = Math.min(most, Math.max(0, this.zoom.v)));
    const moved = scale === 1 ? "" : `translate(${-u * scale * 100}%, ${-v * scale * 100}%) scale(${scale})`;
    for (const image of this.root.querySelectorAll(".frame img")) image.style.transform = moved;
    this.root.classList.toggle("zoomed", scale > 1);
    this.scaleText.textContent = `${Math.round(100 * scale)}%`;
    if (this.boxScale) this.boxScale.textContent = this.scaleText.textContent;
  }

  // --- flicker and outline ---------------------------------------------------------------------------

  setFlicker(on) {
    if (Boolean(this.flickering) === on) return;
    clearInterval(this.flickering);
    this.flickering = null;
    this.showBefore(false);
    this.flickerButton?.setAttribute("aria-pressed", String(on));
    if (!on) return;
    this.used.flickered += 1;
    this.showBefore(true);
    this.flickering = setInterval(() => this.showBefore(!this.before), FLICKER_MS);
  }

  showBefore(before) {
    this.before = before;
    this.root.classList.toggle("before", before);
    for (const chip of this.root.querySelectorAll(".candidate .chip")) {
      chip.textContent = before ? this.t("original") : chip.dataset.label;
    }
  }

  setOutline(on) {
    this.outline = on;
    this.source.classList.toggle("outline", on);
    this.outlineButton.setAttribute("aria-pressed", String(on));
  }

  // --- dialogs ------------------------------------------------------------------------------------------

  dialog(className, label, ...children) {
    this.box?.close();
    const box = make("dialog", className, ...children);
    box.setAttribute("aria-label", label);
    box.addEventListener("close", () => {
      if (this.box === box) this.box = null;
      box.remove();
    });
    this.root.append(box);
    this.box = box;
    box.showModal();
    return box;
  }

  openBox(index) {
    if (!this.ready) return;
    this.setFlicker(false);
    this.used.enlarged += 1;
    this.loadFull();
    const names = [this.t("original"), ...this.data.trial.labels];
    const images = names.map((name, number) => this.picture(number === 0 ? 0 : number + 1, name));
    const outlined = this.picture(1, this.t("outlined"));
    outlined.classList.add("outlined");
    const frame = make("div", "frame large", outlined, ...images);
    this.boxScale = make("output", "scale", this.scaleText.textContent);
    let last = index === 0 ? 1 : 0;
    let current = index;
    let timer = null;
    const show = (number) => {
      images.forEach((image, other) => image.classList.toggle("on", other === number && !(number === 0 && this.outline && timer === null)));
      outlined.classList.toggle("on", number === 0 && this.outline && timer === null);
      tabs.forEach((tab, other) => tab.setAttribute("aria-pressed", String(other === number)));
    };
    const stop = () => {
      clearInterval(timer);
      timer = null;
      flicker.setAttribute("aria-pressed", "false");
    };
    const go = (number) => {
      stop();
      if (number !== current) last = current;
      current = number;
      show(current);
    };
    const tabs = names.map((name, number) => button("tool tab", name, () => go(number)));
    const flicker = button("tool wide", this.t("flicker"), () => {
      if (timer !== null) {
        stop();
        show(current);
        return;
      }
      this.used.flickered += 1;
      let on = true;
      timer = setInterval(() => {
        on = !on;
        show(on ? current : last);
      }, FLICKER_MS);
      flicker.setAttribute("aria-pressed", "true");
      show(last);
      on = false;
    }, "F");
    flicker.title = this.t("flicker_last");
    flicker.setAttribute("aria-pressed", "false");
    const close = button("tool wide", this.t("close"), () => box.close(), "Esc");
    const less = button("tool", "−", () => this.zoomBy(1 / 1.5));
    less.setAttribute("aria-label", this.t("zoom_out"));
    const more = button("tool", "+", () => this.zoomBy(1.5));
    more.setAttribute("aria-label", this.t("zoom_in"));
    const box = this.dialog("large", this.t("enlarged"),
      make("div", "row", ...tabs), frame,
      make("div", "row", less, this.boxScale, more, flicker, close));
    this.bindZoom(frame, index);
    box.addEventListener("keydown", (event) => {
      if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
        event.preventDefault();
        go((current + (event.key === "ArrowRight" ? 1 : names.length - 1)) % names.length);
      } else if (event.key.toLowerCase() === "f") {
        flicker.click();
      } else if (event.key === "+" || event.key === "-") {
        this.zoomBy(event.key === "+" ? 1.5 : 1 / 1.5);
      }
    });
    box.addEventListener("close", () => {
      stop();
      this.boxScale = null;
      this.zoomBy(0);
    });
    go(index);
    this.applyZoom();
  }

  openPause() {
    if (this.busy) return;
    this.undo(); // a pause begins before an answer, not after it
    this.paused = true;
    this.used.paused += 1;
    this.root.classList.add("paused");
    this.setFlicker(false);
    this.tick();
    const copied = make("span", "copied");
    copied.setAttribute("role", "status");
    const link = make("input", "link");
    link.readOnly = true;
    link.value = window.location.href;
    link.setAttribute("aria-label", this.t("link"));
    link.addEventListener("focus", () => link.select());
    const box = this.dialog("sheet", this.t("paused"),
      make("h2", "", this.t("paused")),
      make("p", "", this.t("pause_text")),
      make("div", "row", link, button("quiet", this.t("copy"), () => {
        link.select();
        const done = () => (copied.textContent = this.t("copied"));
        if (navigator.clipboard) navigator.clipboard.writeText(link.value).then(done, () => {});
        else if (document.execCommand("copy")) done();
      })), copied,
      make("div", "row end", button("answer next", this.t("go_on"), () => box.close(), "Esc")));
    box.addEventListener("close", () => {
      this.paused = false;
      this.root.classList.remove("paused");
      this.tick();
    });
  }

  openHelp() {
    const best = this.data.trial.kind === "best";
    const rate = this.data.trial.kind === "rate";
    const keys = rate
      ? [["1 … 9", this.t("key_rate")], ["⌫", this.t("key_back")], ["Enter", this.t("key_go_on")]]
      : best
        ? [["1 … 9", this.t("key_choose")], ["← →, Enter", this.t("key_walk")]]
        : [["←", this.data.trial.labels[0]], ["→", this.data.trial.labels[1]]];
    if (this.data.trial.tie) keys.push(["N", this.t("key_tie")]);
    if (this.data.trial.bothBad) keys.push(["X", this.t("key_both_bad")]);
    keys.push(["Z", rate ? this.t("change") : this.t("key_undo")], ["F", this.t("key_flicker")], ["O", this.t("key_outline")], ["+ −", this.t("key_zoom")], ["P", this.t("key_pause")]);
    const list = make("dl", "keys");
    for (const [key, what] of keys) list.append(make("dt", "", make("kbd", "", key)), make("dd", "", what));
    const box = this.dialog("sheet", this.t("help"),
      make("h2", "", this.data.trial.question), make("p", "", this.data.trial.hint), list,
      make("p", "small", this.t("help_text")),
      make("div", "row end", button("quiet", this.t("instructions"), () => this.dispatch("instructions", {})), button("answer next", this.t("close"), () => box.close(), "Esc")));
  }

  // --- keyboard: no key that scrolls a page is an answer ------------------------------------------------

  onKey(event) {
    if (!this.data || !this.root.isConnected || this.box || event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.composedPath()[0];
    if ((target instanceof HTMLInputElement && target.type !== "radio") || target instanceof HTMLTextAreaElement) return;
    const onButton = target instanceof HTMLButtonElement && target.matches(":focus-visible");
    const { key } = event;
    const press = (work) => {
      event.preventDefault();
      if (!event.repeat) work();
    };
    if (onButton && (key === " " || key === "Enter")) return;
    if (key === "+" || key === "=") press(() => this.zoomBy(1.5));
    else if (key === "-") press(() => this.zoomBy(1 / 1.5));
    else if (key === "0") press(() => this.zoomBy(0));
    else if (key === "f" || key === "F") press(() => this.setFlicker(!this.flickering));
    else if (key === "o" || key === "O") press(() => this.setOutline(!this.outline));
    else if (key === "p" || key === "P") press(() => this.openPause());
    else if (key === "?") press(() => this.openHelp());
    else if (key === "z" || key === "Z") press(() => (this.held ? this.undo() : this.change(true)));
    else if (key === "Escape" && this.data.changing !== null) press(() => this.change(false));
    else if (key === "Enter" && this.held) press(() => this.commit());
    else if (this.data.feedback) {
      if (key === "Enter" || key === "ArrowRight") press(() => this.next());
    } else if (this.data.trial.kind === "rate") {
      this.onRateKey(key, press);
    } else if (this.data.trial.kind === "pair") {
      if (key === "ArrowLeft") press(() => this.answer(0, "key"));
      else if (key === "ArrowRight") press(() => this.answer(1, "key"));
      else if (key === "n" || key === "N") press(() => this.answer("tie", "key"));
      else if (key === "x" || key === "X") press(() => this.answer("both bad", "key"));
    } else this.onBestKey(key, press);
  }

  onBestKey(key, press) {
    const count = this.data.trial.labels.length;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (step) {
      press(() => {
        this.marked = this.marked === null ? (step > 0 ? 0 : count - 1) : (this.marked + step + count) % count;
        for (const figure of this.root.querySelectorAll("figure.candidate")) {
          figure.classList.toggle("marked", figure.dataset.position === String(this.marked));
        }
      });
    } else if (key === "Enter" && this.marked !== null) {
      press(() => this.answer(this.marked, "key"));
    } else if (/^[1-9]$/.test(key) && Number(key) <= count) {
      press(() => this.answer(Number(key) - 1, "key"));
    }
  }
}
