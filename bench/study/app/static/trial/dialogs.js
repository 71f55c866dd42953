// The dialogs: an enlarged picture, a pause, help.

class DialogPage extends ZoomPage {
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
    if (!this.ready || this.used.over) return;
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
      rich("h2", "", this.data.trial.question), rich("div", "hint", this.data.trial.hint), list,
      make("p", "small", this.t("help_text")),
      make("div", "row end", button("quiet", this.t("instructions"), () => this.dispatch("instructions", {})), button("answer next", this.t("close"), () => box.close(), "Esc")));
  }
}
