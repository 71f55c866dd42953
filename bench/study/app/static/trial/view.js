// The component itself: messages from the server, a new trial, the keyboard.

class View extends AnswerPage {
  constructor(parent) {
    super();
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
    clearTimeout(this.counting);
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

  // --- a new trial ------------------------------------------------------------------------------------

  begin() {
    const { trial, pictures } = this.data;
    this.clock?.stop();
    this.setFlicker(false);
    // The open trial is left and comes back while the answer before it is changed.
    if (!this.clocks.has(trial.id)) this.clocks.set(trial.id, new Clock(trial.id));
    this.clock = this.clocks.get(trial.id);
    this.used = { zoomed: 0, flickered: 0, enlarged: 0, paused: 0, undone: 0, over: false };
    this.zoom = { scale: 1, u: 0, v: 0 };
    this.ready = false;
    this.paused = false;
    this.marked = null;
    this.held = null;
    this.urls = null;
    this.full = null;
    clearTimeout(this.undoing);
    this.root.classList.remove("held", "over");
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
