/* One edit, large: slider, side by side, heat map; its prompts, scores and provenance; the other methods. */
"use strict";

PEB.viewer = (() => {
  const { h, svg } = PEB;
  const $ = (id) => document.getElementById(id);
  const dialog = $("viewer");
  let run;
  let gallery;
  let changed = () => {};
  let current = -1;
  let mode = "slider";
  let before = "source";
  let selectMode = () => {};
  let divider = 50;

  function start(theRun, theGallery, onChange) {
    [run, gallery, changed] = [theRun, theGallery, onChange];
    const setMode = (chosen) => { mode = chosen; selectMode(mode); stage(); changed(); };
    selectMode = PEB.segments($("v-mode"), setMode);
    heatFilters();
    $("v-close").addEventListener("click", close);
    $("v-previous").addEventListener("click", () => along(-1));
    $("v-next").addEventListener("click", () => along(1));
    $("v-before").addEventListener("change", () => { before = $("v-before").value; stage(); changed(); });
    for (const id of ["v-outline", "v-gain", "v-outside"]) $(id).addEventListener("change", () => { stage(); changed(); });
    dialog.addEventListener("close", () => {
      const i = current;
      current = -1;
      $("v-stage").replaceChildren();
      changed();
      const position = gallery.position(i);
      if (position >= 0) gallery.focusCard(position);
    });
    // A click on the backdrop has the dialog itself as its target.
    dialog.addEventListener("click", (event) => { if (event.target === dialog) close(); });
    dialog.addEventListener("keydown", keys);
    dialog.addEventListener("keyup", (event) => { if (event.key.toLowerCase() === "b") $("v-stage").classList.remove("flipped"); });
    let from = null;
    $("v-stage").addEventListener("touchstart", (event) => { from = mode === "slider" ? null : event.changedTouches[0].clientX; }, { passive: true });
    $("v-stage").addEventListener("touchend", (event) => {
      const way = from === null ? 0 : event.changedTouches[0].clientX - from;
      if (Math.abs(way) > 60) along(way < 0 ? 1 : -1);
    }, { passive: true });

    function keys(event) {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const sliding = event.target.matches("input[type=range], select, [role=radio]");
      const key = event.key.toLowerCase();
      if (!sliding && key === "arrowleft") along(-1);
      else if (!sliding && key === "arrowright") along(1);
      else if (!sliding && key === "arrowup") across(-1);
      else if (!sliding && key === "arrowdown") across(1);
      else if (event.target.matches("select")) return;
      else if (key === "s") setMode("slider");
      else if (key === "d") setMode("pair");
      else if (key === "h") setMode("heat");
      else if (key === "m") { $("v-outline").checked = !$("v-outline").checked; stage(); changed(); }
      else if (key === "b") $("v-stage").classList.add("flipped");
      else return;
      event.preventDefault();
    }
  }

  /* The next of those that pass the filters. */
  function along(way) {
    const position = gallery.position(current);
    const next = position < 0 ? 0 : position + way;
    if (next >= 0 && next < gallery.count()) show(gallery.at(next));
  }

  /* The same case by the next method. */
  function across(way) {
    const all = gallery.siblings(current);
    show(all[(all.indexOf(current) + way + all.length) % all.length]);
  }

  function close() {
    dialog.close();
  }

  /* Reads edit and view mode from the address, and writes them there. */
  function toAddress(parameters) {
    parameters.set("edit", gallery.name(current));
    if (mode !== "slider") parameters.set("view", mode);
    if (before !== "source") parameters.set("before", before);
    if (!$("v-outline").checked) parameters.set("outline", "0");
    if (mode === "heat" && $("v-gain").value !== "4") parameters.set("gain", $("v-gain").value);
    if (mode === "heat" && !$("v-outside").checked) parameters.set("inside", "1");
  }

  function fromAddress(parameters) {
    if (!parameters.has("edit")) return;
    const view = parameters.get("view");
    mode = [...$("v-mode").querySelectorAll("[role=radio]:not([hidden])")].some((button) => button.dataset.value === view) ? view : "slider";
    selectMode(mode);
    before = parameters.get("before") ?? "source";
    $("v-outline").checked = parameters.get("outline") !== "0";
    $("v-gain").value = ["1", "4", "16"].includes(parameters.get("gain")) ? parameters.get("gain") : "4";
    $("v-outside").checked = parameters.get("inside") !== "1";
  }

  function show(i) {
    const fresh = !dialog.open;
    current = i;
    const { edits, cases } = gallery;
    const c = edits.case[i];
    const category = run.categories[cases.category[c]];
    const found = gallery.verdict(i);
    $("v-title").replaceChildren(h("span", { class: `mark ${found}`, title: gallery.GLYPH[found][1] }, gallery.GLYPH[found][0]), ` ${gallery.title(i)}`);
    $("v-place").replaceChildren(h("span", { class: "dot", "data-category": category }), ` ${PEB.words(category)} · ${run.protocols[cases.protocol[c]].name} · `, h("code", {}, cases.id[c]));
    const position = gallery.position(i);
    $("v-position").textContent = position < 0 ? "not among the filtered" : `${PEB.grouped(position + 1)} of ${PEB.grouped(gallery.count())}`;
    $("v-previous").disabled = position === 0;
    $("v-next").disabled = position === gallery.count() - 1;
    const choices = [["source", "source"], ...(cases.truth[c] ? [["truth", "truth"]] : [])];
    // Nothing to outline, and no outside.
    $("v-outline").parentElement.hidden = $("v-outside").parentElement.hidden = cases.mask[c] === null;
    $("v-mode").querySelector("[data-value=heat]").textContent = cases.mask[c] === null ? "Heat map" : "Leak heat map";
    if (!choices.some(([value]) => value === before)) before = "source";
    $("v-before").replaceChildren(...choices.map(([value, label]) => h("option", { value, selected: value === before }, label)));
    prompts(c);
    strip(i);
    stage();
    scores(i);
    if (position >= 0) gallery.activate(position);
    if (fresh) {
      dialog.showModal();
      $("v-close").focus({ focusVisible: false });
    }
    changed();
  }

  const picture = (source, label, more = "") => {
    const image = h("img", { src: source, alt: label, class: more, draggable: "false" });
    image.addEventListener("load", () => image.classList.toggle("pixels", image.naturalWidth <= 256));
    image.addEventListener("error", () => $("v-caption").replaceChildren(h("span", { class: "bad" }, `${label || "a picture"}: the file is not there.`)), { once: true });
    return image;
  };

  function stage() {
    if (current < 0) return;
    const { edits, cases } = gallery;
    const c = edits.case[current];
    const [old, mask] = [gallery.caseFile(c, before), gallery.caseFile(c, "mask")];
    const place = $("v-stage");
    place.className = `stage ${mode}`;
    $("v-heat-tools").hidden = mode !== "heat";
    $("v-caption").textContent = "";
    const outline = () => (mask && $("v-outline").checked ? h("img", { src: mask, alt: "", class: "outline" }) : null);
    if (edits.failed[current]) {
      place.replaceChildren(h("div", { class: "frame" }, picture(old, before), outline()));
      $("v-caption").replaceChildren(h("span", { class: "bad" }, edits.refused[current] ? "The method cannot edit this case. The image is the source." : "This edit failed. The image is its source."));
      return;
    }
    const file = gallery.file(current);
    if (mode === "slider") {
      const top = h("div", { class: "top-image" }, picture(old, before));
      const line = h("div", { class: "divider", "aria-hidden": "true" });
      const range = h("input", { type: "range", min: 0, max: 100, step: 0.5, value: divider, "aria-label": `Divider: ${before} on its left, edit on its right` });
      const move = () => {
        divider = Number(range.value);
        top.style.clipPath = `inset(0 ${100 - divider}% 0 0)`;
        line.style.left = `${divider}%`;
        range.setAttribute("aria-valuetext", `${Math.round(divider)} % ${before}`);
      };
      range.addEventListener("input", move);
      place.replaceChildren(h("div", { class: "frame" }, picture(file, "edit"), top, outline(), line, range,
        h("span", { class: "tag left" }, before), h("span", { class: "tag right" }, "edit")));
      move();
    } else if (mode === "pair") {
      place.replaceChildren(
        h("div", { class: "frame" }, picture(old, before), outline(), h("span", { class: "tag left" }, before)),
        h("div", { class: "frame" }, picture(file, "edit"), outline(), h("span", { class: "tag left" }, "edit")));
    } else {
      const gain = $("v-gain").value;
      const outside = mask && $("v-outside").checked;
      // |edit - before|, black inside the mask, then coloured. All of it is done by blending, because a page on disk
      // may not read the pixels of its own images.
      const heat = h("div", { class: "heat-map", style: { filter: `url(#heat-${gain})` } },
        picture(old, before), picture(file, "edit", "difference"), outside ? h("img", { src: mask, alt: "", class: "keep" }) : null);
      for (const image of heat.querySelectorAll("img")) image.classList.add("fill");
      place.replaceChildren(h("div", { class: "frame" }, picture(old, before, "gray"), heat, outline()));
      const most = 255 / Number(gain);
      $("v-caption").replaceChildren(h("span", { class: "scale" }, "0", h("i", { class: "ramp" }), `≥ ${most.toFixed(0)}`),
        ` largest difference of the three channels from the ${before}, of 255${outside ? "; the region to edit is left out" : ""}`);
    }
  }

  /* Inferno at nine points (van der Walt and Smith 2015): dark is a small change, bright a large one, for colour-blind users too. */
  const RAMP = ["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#fcffa4"];

  function heatFilters() {
    const channel = (at) => RAMP.map((color) => (parseInt(color.slice(at, at + 2), 16) / 255).toFixed(4)).join(" ");
    for (const gain of [1, 4, 16]) {
      const filter = svg("filter", { id: `heat-${gain}`, "color-interpolation-filters": "sRGB", x: 0, y: 0, width: "100%", height: "100%" });
      const only = (k, result) => svg("feColorMatrix", { in: "SourceGraphic", result,
        values: [0, 1, 2].map(() => [0, 1, 2, 3, 4].map((j) => (j === k ? gain : 0)).join(" ")).join("  ") + "  0 0 0 0 1" });
      const blend = (a, b, result) => svg("feBlend", { in: a, in2: b, mode: "lighten", result });
      const color = svg("feComponentTransfer", { in: "most", result: "color" });
      for (const [tag, at] of [["feFuncR", 1], ["feFuncG", 3], ["feFuncB", 5]]) color.append(svg(tag, { type: "table", tableValues: channel(at) }));
      const alpha = svg("feComponentTransfer", { in: "level", result: "alpha" });
      // Unchanged pixels stay transparent, changed ones are covered quickly.
      alpha.append(svg("feFuncA", { type: "table", tableValues: "0 0.75 0.9 0.95 1 1 1 1 1" }));
      filter.append(only(0, "r"), only(1, "g"), only(2, "b"), blend("r", "g", "rg"), blend("rg", "b", "most"), color,
        svg("feColorMatrix", { in: "most", result: "level", values: "0 0 0 0 0  0 0 0 0 0  0 0 0 0 0  1 0 0 0 0" }), alpha,
        svg("feComposite", { in: "color", in2: "alpha", operator: "in" }));
      $("filters-defs").append(filter);
    }
  }

  function prompts(c) {
    const { cases } = gallery;
    const rows = [["before", cases.source_prompt[c]], ["after", cases.target_prompt[c] && marked(cases.target_prompt[c], cases.words[c])], ["in the region", cases.region_prompt[c]], ["instruction", cases.instruction[c]]];
    $("v-prompts").replaceChildren(...rows.filter(([, text]) => text && text.length !== 0).flatMap(([label, text]) => [h("dt", {}, label), h("dd", {}, text)]));
  }

  /* The target prompt. The words that the region must show are marked. */
  function marked(text, words) {
    const set = new Set((words ?? []).map((word) => word.toLowerCase()));
    return text.split(/(\s+)/).map((part) => (set.has(part.toLowerCase().replace(/[^\p{L}\p{N}-]/gu, "")) ? h("mark", {}, part) : part));
  }

  function strip(i) {
    const c = gallery.edits.case[i];
    const still = (file, label) => h("div", { class: "strip-cell" }, h("span", { class: "thumb" }, h("img", { src: file, alt: label })), h("span", {}, label));
    const place = $("v-strip");
    place.replaceChildren(
      still(gallery.smallSource(c), "source"), ...gallery.referenceFiles(c).map((file) => still(file, "reference")),
      gallery.cases.truth[c] ? still(gallery.caseFile(c, "truth"), "truth") : "",
      ...gallery.siblings(i).map((other) => {
        const found = gallery.verdict(other);
        const title = gallery.title(other);
        return h("button", { class: "strip-cell", "aria-pressed": other === i ? "true" : "false", onclick: () => show(other), title: `${title}: ${gallery.GLYPH[found][1]}` },
          h("span", { class: "thumb" }, gallery.edits.failed[other] ? h("span", { class: "no-image" }, gallery.absence(other)) : h("img", { src: gallery.smallFile(other), alt: "" }),
            h("span", { class: `mark ${found}`, "aria-hidden": "true" }, gallery.GLYPH[found][0])),
          h("span", {}, gallery.method(other)), run.seeds ? h("span", {}, gallery.seed(other)) : "");
      }));
    const chosen = place.querySelector("[aria-pressed=true]");
    if (chosen) place.scrollLeft = Math.max(0, chosen.offsetLeft - place.clientWidth / 2);
  }

  const GROUPS = [["Success", /^(success|judge)_/], ["Leakage", /^leak_/], ["Alignment", /clip_(target|region|directional)/], ["Other", /./]];

  async function scores(i) {
    const size = run.parts.rows;
    let part;
    try {
      part = await PEB.load(`rows/${Math.floor(i / size)}`);
    } catch (error) {
      $("v-scores").replaceChildren(h("p", { class: "bad" }, error.message));
      return;
    }
    if (i !== current) return;
    const k = i % size;
    const left = new Set(run.metrics.map((_, m) => m));
    const bodies = [];
    for (const [label, pattern] of [...GROUPS.slice(0, 3), ["Pasted back", /_pasted$/], GROUPS[3]]) {
      const here = [...left].filter((m) => pattern.test(run.metrics[m].name) && (label === "Pasted back" || label === "Other" || !run.metrics[m].name.endsWith("_pasted")));
      if (!here.length) continue;
      here.forEach((m) => left.delete(m));
      bodies.push(h("tbody", {}, h("tr", { class: "group" }, h("th", { colspan: 2, scope: "colgroup" }, label)), ...here.map((m) => score(m, part.values[k][m], part.reasons[k]?.[m]))));
    }
    $("v-scores").replaceChildren(h("table", { class: "scores" }, ...bodies));
    const memory = part.memory[k];
    $("v-facts").replaceChildren(...PEB.manifest.pairs([
      ["error", part.error[k]], ["seconds", PEB.short(part.seconds[k])], ["peak memory", memory && `${(memory / 2 ** 20).toFixed(0)} MiB`],
      ["seed", part.seed[k]], ["source", gallery.cases.source_id[gallery.edits.case[i]]],
      ["method digest", h("code", {}, run.methods[gallery.edits.method[i]].digest)], ["SHA-256", part.sha256[k] && h("code", { class: "long" }, part.sha256[k])],
    ]).children);
  }

  function score(m, value, reason) {
    const metric = run.metrics[m];
    const missing = value === null || value === undefined;
    const arrow = metric.higher === null ? "" : metric.higher ? " ↑" : " ↓";
    const flag = /^(success|judge)_/.test(metric.name) && (value === 0 || value === 1);
    return h("tr", { title: metric.summary },
      h("th", { scope: "row" }, metric.heading.replace(", pasted", ""), h("span", { class: "sign" }, arrow)),
      h("td", { class: missing ? "none" : null }, missing ? reason || "not scored" : flag ? (value ? "✓ yes" : "✗ no") : `${PEB.short(value)}${metric.unit === "dB" ? " dB" : ""}`));
  }

  return { start, show, close, toAddress, fromAddress, isOpen: () => dialog.open, current: () => current };
})();
