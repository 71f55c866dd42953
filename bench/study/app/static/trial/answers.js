// The clock, what may be pressed when, and the way of an answer to the server.

class AnswerPage extends DialogPage {
  tick() {
    const seen = this.ready && !this.paused && !this.busy && !this.data.feedback && document.visibilityState === "visible";
    if (seen) this.clock.run();
    else this.clock?.stop();
    this.countDown(seen);
  }

  // The pictures of a trial with a time limit are covered when it is over. The time is that of the answer's clock, so a
  // pause stops it and a reload does not begin it anew.
  countDown(seen) {
    clearTimeout(this.counting);
    const { seconds } = this.data.trial;
    if (seconds === null || !this.clock || this.data.feedback || this.used.over) return;
    const left = 1000 * seconds - this.clock.read();
    this.timeText.textContent = this.t("seconds_left", { n: Math.max(0, Math.ceil(left / 1000)) });
    if (left <= 0) this.cover();
    else if (seen) this.counting = setTimeout(() => this.tick(), Math.max(20, left % 1000));
  }

  cover() {
    this.setFlicker(false);
    this.zoomBy(0);
    if (this.box?.classList.contains("large")) this.box.close();
    this.used.over = true;
    this.root.classList.add("over");
    this.live.textContent = this.t("time_over");
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
    this.held = { value, by, at: now, ms: Math.round(this.clock.read()), over: this.used.over };
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
    const { value, by, ms, over } = this.held;
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
        over, // when the answer was chosen, not when it is sent
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
    this.used.over = false;
    this.root.classList.remove("over"); // the explanation is about the pictures
    const next = button("answer next", this.t("next"), () => this.next(), "→");
    const box = make("div", feedback.correct ? "feedback good" : "feedback bad",
      make("strong", "", this.t(feedback.correct ? "expected" : "look_again")), make("p", "", feedback.text));
    box.dir = this.data.direction; // sentences, among answers that stand from left to right in every language
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
}
