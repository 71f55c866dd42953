// Zoom, flicker and outline: all pictures show the same part.

class ZoomPage extends RatingPage {
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
    if (on && this.used.over) return;
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
}
