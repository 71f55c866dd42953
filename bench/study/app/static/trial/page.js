// What a trial shows: its texts, pictures, tools and answers, and their sizes.

class TrialPage {
  // A text of the page in the study's language, with its placeholders filled in.
  t(key, values = {}) {
    return this.data.words[key].replace(/\{(\w+)\}/g, (place, name) => values[name] ?? place);
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
    // The seconds that are left to look at the pictures.
    this.timeText = trial.seconds === null ? null : make("span", "time");
    this.timeText?.setAttribute("role", "timer");
    const name = make("span", "title", title);
    name.dir = "auto";
    const changing = this.data.changing !== null;
    let change = null;
    if (changing) change = button("quiet keep", this.t("keep"), () => this.change(false), "Esc");
    else if (this.data.back) change = button("quiet back", this.t("change"), () => this.change(true), "Z");
    const bar = make("header", "bar", name, make("div", "progress", count, this.timeText, track),
      make("div", "menu", change, button("quiet", this.t("help"), () => this.openHelp(), "?"), button("quiet", this.t("pause"), () => this.openPause(), "P")));

    const asked = rich("h1", "question", trial.question);
    asked.dir = "auto";
    asked.tabIndex = -1;
    const brief = make("div", "brief");
    for (const [label, text, kind] of trial.brief) {
      const body = make("p", "said", text);
      body.dir = "auto";
      body.tabIndex = text.length > 300 ? 0 : -1;
      brief.append(make("div", `line ${kind}`, make("span", "label", label), body));
    }
    const hint = rich("div", "hint", trial.hint);
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
    frame.dataset.over = this.t("time_over");
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
    // For every kind: the trial before this one may have been a pair.
    this.root.classList.toggle("four", trial.kind === "pair" && trial.tie && trial.bothBad);
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
}
