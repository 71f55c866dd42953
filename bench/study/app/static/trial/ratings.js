// Ratings: one group of levels per scale, answered in turn by the digits.

class RatingPage extends TrialPage {
  drawScales() {
    const { scales, id } = this.data.trial;
    this.ratings = [...(this.data.changing ?? scales.map(() => null))];
    const groups = scales.map((scale, number) => {
      const legend = rich("legend", "", scale.question);
      legend.dir = "auto";
      const levels = scale.levels.map(([label, means], position) => {
        const input = make("input");
        input.type = "radio";
        input.name = `scale-${id}-${number}`;
        input.checked = this.ratings[number] === position;
        input.addEventListener("change", () => this.rate(number, position));
        const text = make("span", "level", rich("b", "", label), means ? rich("small", "", means) : null);
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
    this.held = { value: this.ratings, by, at: performance.now(), ms: Math.round(this.clock.read()), over: this.used.over };
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
}
