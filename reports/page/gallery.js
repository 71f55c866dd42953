/* The gallery: filtered and sorted edits. Only the visible cards are in the document. */
"use strict";

PEB.gallery = (() => {
  const { h, svg } = PEB;
  const $ = (id) => document.getElementById(id);
  const OVERSCAN = 2; /* rows that are drawn above and below the window */

  let run;
  let open = () => {};
  let changed = () => {};

  const { edits, cases, columns, column, value, file, caseFile, referenceFiles, smallFile, smallSource, siblings, method, seed, title, name, find } = PEB.edits;

  const filters = { text: "", protocol: new Set(), category: new Set(), method: new Set(), success: new Set(), low: null, high: null };
  const view = { judge: "", leak: "", sort: "case", way: 1, layout: "grid" };
  let list = new Int32Array(0); /* edits that pass, in order */
  let rows = []; /* in the layout by case: [case, its edits] */
  let active = 0; /* position in `list` of the card that has the keyboard focus */

  // --- data -----------------------------------------------------------------------------------------

  async function start(theRun, onOpen, onChange) {
    [run, open, changed] = [theRun, onOpen, onChange];
    const judges = run.metrics.filter((m) => m.name.startsWith("success_") && m.column).map((m) => m.name);
    const leaks = run.metrics.filter((m) => m.name.startsWith("leak_") && m.column).map((m) => m.name);
    view.judge = judges.includes("success_truth") ? "success_truth" : judges[0] ?? "";
    view.leak = leaks.includes("leak_lpips") ? "leak_lpips" : leaks[0] ?? "";
    controls(judges, leaks);
    await PEB.edits.load(run, [view.judge, view.leak]);
    leakBounds();
  }

  /* yes, no, none (not judged), refused (the case lacks what the method needs), failed (there is no edit). */
  function verdict(i) {
    if (edits.refused[i]) return "refused";
    if (edits.failed[i]) return "failed";
    const found = value(view.judge, i);
    return Number.isNaN(found) ? "none" : found > 0.5 ? "yes" : "no";
  }

  // --- filters --------------------------------------------------------------------------------------

  const SUCCESS = { yes: "✓ yes", no: "✗ no", none: "not judged", refused: "refused", failed: "failed edit" };

  function controls(judges, leaks) {
    chips("protocol", run.protocols.map((p) => [p.name, p.name]));
    chips("category", run.categories.map((c) => [c, PEB.words(c)]));
    chips("method", run.methods.map((m) => [m.digest, PEB.named(m)]));
    chips("success", Object.entries(SUCCESS).filter(([kind]) => kind !== "refused" || run.counts.refused));
    for (const chip of document.querySelectorAll("#f-category .chip")) chip.dataset.category = chip.dataset.value;
    for (const [i, chip] of [...document.querySelectorAll("#f-method .chip")].entries()) chip.classList.toggle("faint", run.methods[i].control);
    picker("f-judge-place", "Judge of success", judges, view.judge, (chosen) => { view.judge = chosen; }, /^success \(|\)$/g);
    picker("f-leak-place", "Measure of leak", leaks, view.leak, (chosen) => { view.leak = chosen; filters.low = filters.high = null; }, /^leak /);
    document.querySelector(".field.leak").hidden = !leaks.length;
    const sort = $("sort");
    sort.append(h("option", { value: "case" }, "case"), h("option", { value: "method" }, "method"));
    for (const metric of run.metrics.filter((m) => m.column)) sort.append(h("option", { value: metric.name }, metric.heading));
    sort.addEventListener("change", async () => {
      view.sort = sort.value;
      await column(sort.value);
      // The worst edits come first, since users look for failures.
      const metric = run.metrics.find((m) => m.name === sort.value);
      view.way = metric && metric.higher === false ? -1 : 1;
      update();
    });
    $("sort-way").addEventListener("click", () => { view.way = -view.way; update(); });
    const layout = PEB.segments($("layout"), (chosen) => { view.layout = chosen; update(); });
    $("layout").select = layout;
    $("f-text").addEventListener("input", () => {
      filters.text = $("f-text").value;
      clearTimeout(controls.timer);
      controls.timer = setTimeout(update, 80);
    });
    $("filters").addEventListener("submit", (event) => { event.preventDefault(); update(); focusCard(0); });
    $("f-clear").addEventListener("click", () => { clear(); update(); $("f-text").focus(); });
    for (const id of ["f-leak-low", "f-leak-high"]) $(id).addEventListener("input", readRange);
  }

  function chips(kind, choices) {
    $(`f-${kind}`).append(...choices.map(([chosen, label]) => h("button", { type: "button", class: "chip", "data-value": chosen, "aria-pressed": "false", onclick: () => {
      filters[kind].has(chosen) ? filters[kind].delete(chosen) : filters[kind].add(chosen);
      update();
    } }, label)));
    $(`f-${kind}`).closest(".field").hidden = choices.length < 2;
  }

  function picker(place, label, choices, chosen, set, strip) {
    if (choices.length < 2) return;
    $(place).append(h("select", { class: "mini", "aria-label": label, onchange: async (event) => {
      await column(event.target.value);
      set(event.target.value);
      leakBounds();
      update();
    } }, ...choices.map((name) => h("option", { value: name, selected: name === chosen },
      (run.metrics.find((m) => m.name === name)?.heading ?? name).replace(strip, "").replace(/^success \(/, "")))));
  }

  function clear() {
    filters.text = $("f-text").value = "";
    for (const kind of ["protocol", "category", "method", "success"]) filters[kind].clear();
    filters.low = filters.high = null;
    leakBounds();
  }

  /* Ends of the range, and the histogram above it. Bar heights are square roots of counts. */
  let bounds = [0, 1];
  function leakBounds() {
    const values = columns.get(view.leak);
    if (!values) return;
    let [low, high] = [Infinity, -Infinity];
    for (const v of values) if (v === v) { if (v < low) low = v; if (v > high) high = v; }
    bounds = low <= high ? [low, high] : [0, 1];
    const counts = new Array(40).fill(0);
    for (const v of values) if (v === v) counts[Math.min(39, Math.floor((40 * (v - bounds[0])) / (bounds[1] - bounds[0] || 1)))] += 1;
    const top = Math.sqrt(Math.max(1, ...counts));
    $("f-leak-bars").replaceChildren(...counts.map((count, k) => {
      const height = count ? Math.max(1, (24 * Math.sqrt(count)) / top) : 0;
      return svg("rect", { x: k * 2.5, width: 2, y: 24 - height, height });
    }));
    showRange();
  }

  const toSlider = (v) => Math.round((1000 * (v - bounds[0])) / (bounds[1] - bounds[0] || 1));
  const toValue = (s) => bounds[0] + (s / 1000) * (bounds[1] - bounds[0]);

  function readRange(event) {
    let [low, high] = [Number($("f-leak-low").value), Number($("f-leak-high").value)];
    if (low > high) event.target.id === "f-leak-low" ? (low = high) : (high = low);
    filters.low = low > 0 ? toValue(low) : null;
    filters.high = high < 1000 ? toValue(high) : null;
    showRange();
    update();
  }

  function showRange() {
    const low = filters.low === null ? 0 : toSlider(filters.low);
    const high = filters.high === null ? 1000 : toSlider(filters.high);
    $("f-leak-low").value = low;
    $("f-leak-high").value = high;
    $("f-leak-fill").style.left = `${low / 10}%`;
    $("f-leak-fill").style.right = `${100 - high / 10}%`;
    const text = `${PEB.short(toValue(low))} to ${PEB.short(toValue(high))}`;
    $("f-leak-text").textContent = text;
    for (const [id, v] of [["f-leak-low", low], ["f-leak-high", high]]) $(id).setAttribute("aria-valuetext", PEB.short(toValue(v)));
    for (const [k, bar] of [...$("f-leak-bars").children].entries()) bar.classList.toggle("out", 25 * (k + 1) <= low || 25 * k >= high);
  }

  function search() {
    if (!cases.search) {
      cases.search = cases.id.map((id, c) => [id, cases.source_prompt[c], cases.target_prompt[c], cases.region_prompt[c], cases.instruction[c]].join("\n").toLowerCase());
    }
    const wanted = filters.text.toLowerCase().split(/\s+/).filter(Boolean);
    return wanted.length ? cases.search.map((text) => wanted.every((word) => text.includes(word))) : null;
  }

  function select() {
    const found = search();
    const { protocol, category, method, success, low, high } = filters;
    const methods = run.methods.map((m) => !method.size || method.has(m.digest));
    const places = cases.id.map((_, c) => (!found || found[c])
      && (!protocol.size || protocol.has(run.protocols[cases.protocol[c]].name))
      && (!category.size || category.has(run.categories[cases.category[c]])));
    const leak = columns.get(view.leak);
    const picked = [];
    for (let i = 0; i < edits.n; i += 1) {
      if (!places[edits.case[i]] || !methods[edits.method[i]]) continue;
      if (success.size && !success.has(verdict(i))) continue;
      // A range excludes edits without a value.
      if (low !== null && !(leak[i] >= low)) continue;
      if (high !== null && !(leak[i] <= high)) continue;
      picked.push(i);
    }
    const key = view.sort === "method" ? edits.method : columns.get(view.sort);
    if (key) {
      picked.sort((a, b) => {
        const [x, y] = [key[a], key[b]];
        if (x !== x || y !== y) return (x !== x) - (y !== y) || a - b;
        return view.way * (x - y) || a - b;
      });
    } else if (view.way < 0) picked.reverse();
    return Int32Array.from(picked);
  }

  function update(keep = false) {
    const before = list[active];
    list = select();
    rows = [];
    if (view.layout === "case") {
      const groups = new Map();
      list.forEach((i, position) => {
        if (!groups.has(edits.case[i])) groups.set(edits.case[i], []);
        groups.get(edits.case[i]).push(position);
      });
      rows = [...groups];
      // Within a row, always the same order of methods.
      for (const [, positions] of rows) positions.sort((a, b) => list[a] - list[b]);
    }
    active = Math.max(0, keep ? list.indexOf(before) : 0);
    reflect();
    measure();
    draw(true);
    if (!keep) toTop();
    changed();
  }

  function reflect() {
    let on = filters.text.trim() ? 1 : 0;
    for (const kind of ["protocol", "category", "method", "success"]) {
      on += filters[kind].size ? 1 : 0;
      for (const chip of $(`f-${kind}`).children) chip.setAttribute("aria-pressed", filters[kind].has(chip.dataset.value));
    }
    on += filters.low !== null || filters.high !== null ? 1 : 0;
    $("f-clear").hidden = !on;
    $("filters-active").hidden = !on;
    $("filters-active").textContent = `${on} on`;
    // Controls succeed or fail by design, so they count only where nothing else is chosen.
    let [yes, judged] = [0, 0];
    const only = list.every((i) => run.methods[edits.method[i]].control);
    for (const i of list) {
      if (!only && run.methods[edits.method[i]].control) continue;
      const found = verdict(i);
      yes += found === "yes";
      judged += found === "yes" || found === "no";
    }
    const all = list.length === edits.n ? PEB.plural(edits.n, "edit") : `${PEB.grouped(list.length)} of ${PEB.plural(edits.n, "edit")}`;
    const whose = only ? ", all of controls" : run.methods.some((method) => method.control) ? ", controls left out" : "";
    $("count").replaceChildren(h("strong", {}, all), judged ? ` · ${((100 * yes) / judged).toFixed(1)} % of ${PEB.plural(judged, "judged edit")} succeed${whose}` : "");
    $("empty").hidden = list.length > 0;
    $("sort").value = view.sort;
    $("sort-way").textContent = view.way > 0 ? "↑" : "↓";
    const label = view.way > 0 ? "Ascending" : "Descending";
    $("sort-way").setAttribute("aria-label", label);
    $("sort-way").title = label;
    $("layout").select(view.layout);
    showRange();
  }

  // --- the window onto the list ---------------------------------------------------------------------

  const grid = $("cards");
  const shown = new Map(); /* row number -> element */
  let shape = { per: 1, height: 1, count: 0, width: 160 };

  function measure() {
    const width = grid.clientWidth;
    if (view.layout === "case") {
      const thumb = width < 640 ? 104 : 132;
      shape = { per: 0, height: thumb + 122, count: rows.length, width: thumb };
    } else {
      const gap = 14;
      const per = Math.max(2, Math.floor((width + gap) / (width < 640 ? 170 : 188)));
      const card = Math.floor((width - gap * (per - 1)) / per);
      shape = { per, height: card + 80, count: Math.ceil(list.length / per), width: card };
    }
    grid.style.height = `${shape.count * shape.height}px`;
    grid.style.setProperty("--card", `${shape.width}px`);
    grid.classList.toggle("by-case", view.layout === "case");
  }

  function draw(fresh = false) {
    if (grid.closest("[hidden]")) return;
    if (fresh) {
      for (const element of shown.values()) element.remove();
      shown.clear();
    }
    const top = -grid.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / shape.height) - OVERSCAN);
    const last = Math.min(shape.count - 1, Math.floor((top + window.innerHeight) / shape.height) + OVERSCAN);
    for (const [r, element] of shown) {
      if ((r < first || r > last) && !element.contains(document.activeElement)) {
        element.remove();
        shown.delete(r);
      }
    }
    for (let r = first; r <= last; r += 1) {
      if (shown.has(r)) continue;
      const element = view.layout === "case" ? caseRow(r) : gridRow(r);
      element.style.transform = `translateY(${r * shape.height}px)`;
      // In the order of the list, for the tab key and for screen readers.
      const next = [...shown.keys()].filter((other) => other > r).sort((a, b) => a - b)[0];
      grid.insertBefore(element, next === undefined ? null : shown.get(next));
      shown.set(r, element);
    }
  }

  function gridRow(r) {
    const cards = [];
    for (let position = r * shape.per; position < Math.min(list.length, (r + 1) * shape.per); position += 1) cards.push(card(position));
    return h("div", { class: "row", role: "presentation" }, ...cards);
  }

  function caseRow(r) {
    const [c, positions] = rows[r];
    return h("div", { class: "row case-row", role: "presentation" },
      h("p", { class: "case-head" }, h("span", { class: "what" }, dot(c), wish(c)),
        h("span", {}, [cases.source_prompt[c], cases.target_prompt[c]].filter(Boolean).join(" → "))),
      h("div", { class: "case-cells" },
        still(smallSource(c), "source", caseFile(c, "mask")),
        ...referenceFiles(c).map((file) => still(file, "reference", null)),
        ...positions.map((position) => card(position))));
  }

  const still = (file, label, mask) => h("div", { class: "card still" }, thumb(file, "", mask), h("span", { class: "card-foot" }, h("span", { class: "card-method" }, label)));

  /* The shortest description of the edit: the middle part in which the two prompts differ. */
  const wish = (c) => cases.instruction[c] || cases.target_prompt[c];

  const dot = (c) => h("span", { class: "dot", "data-category": run.categories[cases.category[c]], title: PEB.words(run.categories[cases.category[c]]) });

  function thumb(source, label, mask) {
    const image = h("img", { src: source, alt: label, loading: "lazy", decoding: "async", draggable: "false" });
    image.addEventListener("error", () => image.replaceWith(h("span", { class: "no-image" }, "no image")), { once: true });
    const frame = h("span", { class: "thumb" }, image);
    if (mask) frame.append(h("img", { src: mask, alt: "", loading: "lazy", class: "outline" }));
    return frame;
  }

  const GLYPH = { yes: ["✓", "succeeded"], no: ["✗", "did not succeed"], none: ["·", "not judged"], refused: ["–", "refused: the case lacks what the method needs"], failed: ["!", "failed"] };

  /* Stands where there is no edit. */
  const absence = (i) => (edits.refused[i] ? "refused" : "failed");

  function card(position) {
    const i = list[position];
    const c = edits.case[i];
    const found = verdict(i);
    const picture = edits.failed[i] ? h("span", { class: "thumb" }, h("span", { class: "no-image" }, absence(i))) : thumb(smallFile(i), "");
    picture.append(h("span", { class: `mark ${found}`, "aria-hidden": "true" }, GLYPH[found][0]));
    const leak = value(view.leak, i);
    const sorted = columns.has(view.sort) && view.sort !== view.leak && view.sort !== view.judge ? value(view.sort, i) : null;
    const element = h("a", {
      class: "card", href: `#gallery?edit=${encodeURIComponent(name(i))}`, role: "listitem", "data-position": position,
      tabindex: position === active ? 0 : -1, "aria-setsize": list.length, "aria-posinset": position + 1,
      "aria-label": `${title(i)}, ${PEB.words(run.categories[cases.category[c]])}: ${cases.target_prompt[c] || cases.instruction[c]}. ${GLYPH[found][1]}${leak === leak ? `, leak ${PEB.short(leak)}` : ""}`,
    }, picture,
      h("span", { class: "card-foot" },
        h("span", { class: run.methods[edits.method[i]].control ? "card-method faint" : "card-method" }, view.layout === "case" ? null : dot(c), method(i)),
        h("span", { class: "card-leak", title: sorted === null ? "leak" : view.sort }, [seed(i), PEB.short(sorted === null ? leak : sorted)].filter(Boolean).join(" · "))),
      view.layout === "case" ? null : h("span", { class: "card-prompt", title: cases.target_prompt[c] || cases.instruction[c] }, wish(c)));
    return element;
  }

  /* Shows the source image while the pointer rests on a card. */
  function peek(event, on) {
    const frame = event.target.closest?.("a.card")?.querySelector(".thumb");
    if (!frame || frame.contains(event.relatedTarget)) return;
    frame.querySelector(".peek")?.remove();
    if (on && event.pointerType !== "touch") {
      const i = list[Number(frame.closest("a.card").dataset.position)];
      frame.append(h("img", { class: "peek", alt: "", src: smallSource(edits.case[i]) }));
    }
  }

  // --- keyboard and pointer -------------------------------------------------------------------------

  function rowOf(position) {
    return view.layout === "case" ? rows.findIndex(([, positions]) => positions.includes(position)) : Math.floor(position / shape.per);
  }

  /* Where an arrow leads from the active card. */
  function step(key) {
    const page = Math.max(1, Math.floor(window.innerHeight / shape.height));
    const r = rowOf(active);
    if (view.layout === "case") {
      const positions = rows[r]?.[1] ?? [];
      const at = positions.indexOf(active);
      const to = (row, column) => { const there = rows[Math.max(0, Math.min(rows.length - 1, row))][1]; return there[Math.min(column, there.length - 1)]; };
      if (key === "ArrowRight") return positions[at + 1] ?? to(r + 1, 0);
      if (key === "ArrowLeft") return positions[at - 1] ?? (r > 0 ? rows[r - 1][1].at(-1) : active);
      return { ArrowDown: to(r + 1, at), ArrowUp: to(r - 1, at), PageDown: to(r + page, at), PageUp: to(r - page, at), Home: to(0, 0), End: rows.at(-1)[1].at(-1) }[key];
    }
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: shape.per, ArrowUp: -shape.per, PageDown: page * shape.per, PageUp: -page * shape.per };
    if (key === "Home") return 0;
    if (key === "End") return list.length - 1;
    const next = active + moves[key];
    if (key.startsWith("Page")) return Math.max(0, Math.min(list.length - 1, next));
    return next < 0 || next >= list.length ? active : next;
  }

  const MOVES = ["ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End"];

  function focusCard(position) {
    if (position === undefined || !list.length) return;
    active = position;
    const r = rowOf(position);
    const top = grid.getBoundingClientRect().top + r * shape.height;
    const head = document.querySelector(".top").getBoundingClientRect().bottom + 8;
    if (top < head) window.scrollBy(0, top - head);
    else if (top + shape.height > window.innerHeight) window.scrollBy(0, top + shape.height - window.innerHeight + 8);
    draw();
    for (const card of grid.querySelectorAll("a.card")) card.tabIndex = Number(card.dataset.position) === position ? 0 : -1;
    grid.querySelector(`a.card[data-position="${position}"]`)?.focus({ preventScroll: view.layout !== "case" });
  }

  function toTop() {
    const top = grid.getBoundingClientRect().top;
    const results = document.querySelector(".results").getBoundingClientRect();
    if (top < 0) window.scrollBy(0, results.top - document.querySelector(".top").getBoundingClientRect().bottom);
  }

  function listen() {
    grid.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (MOVES.includes(event.key) && event.target.closest("a.card")) {
        event.preventDefault();
        active = Number(event.target.dataset.position);
        focusCard(step(event.key));
      }
    });
    grid.addEventListener("click", (event) => {
      const chosen = event.target.closest("a.card");
      if (!chosen || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      active = Number(chosen.dataset.position);
      open(list[active]);
    });
    grid.addEventListener("pointerover", (event) => peek(event, true));
    grid.addEventListener("pointerout", (event) => peek(event, false));
    let asked = false;
    addEventListener("scroll", () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => { asked = false; draw(); });
    }, { passive: true });
    new ResizeObserver(() => {
      if (!grid.clientWidth) return;
      measure();
      draw(true);
    }).observe(document.querySelector("#panel-gallery"));
  }

  // --- used by other scripts -------------------------------------------------------------------------------

  /* Filters, order and layout as the address says them, and back. */
  function toAddress() {
    const parameters = new URLSearchParams();
    if (filters.text.trim()) parameters.set("text", filters.text.trim());
    for (const kind of ["protocol", "category", "method", "success"]) if (filters[kind].size) parameters.set(kind, [...filters[kind]].join(","));
    if (filters.low !== null) parameters.set("low", Number(filters.low.toPrecision(6)));
    if (filters.high !== null) parameters.set("high", Number(filters.high.toPrecision(6)));
    if (view.sort !== "case") parameters.set("sort", view.sort);
    if (view.way < 0) parameters.set("down", "1");
    if (view.layout !== "grid") parameters.set("layout", view.layout);
    return parameters;
  }

  async function fromAddress(parameters) {
    filters.text = $("f-text").value = parameters.get("text") ?? "";
    for (const kind of ["protocol", "category", "method", "success"]) {
      const known = new Set([...$(`f-${kind}`).children].map((chip) => chip.dataset.value));
      filters[kind] = new Set((parameters.get(kind) ?? "").split(",").filter((chosen) => known.has(chosen)));
    }
    const number = (text) => (text !== null && text !== "" && Number.isFinite(Number(text)) ? Number(text) : null);
    filters.low = number(parameters.get("low"));
    filters.high = number(parameters.get("high"));
    const sort = parameters.get("sort") ?? "case";
    view.sort = [...$("sort").options].some((option) => option.value === sort) ? sort : "case";
    if (run.metrics.some((metric) => metric.name === view.sort)) await column(view.sort);
    view.way = parameters.get("down") ? -1 : 1;
    view.layout = parameters.get("layout") === "case" ? "case" : "grid";
    update();
  }

  return {
    start, listen, update, toAddress, fromAddress, siblings, name, method, seed, title, absence, find, file, caseFile, referenceFiles, smallFile, smallSource, verdict, value, edits, cases, GLYPH, focusCard,
    refresh: () => { measure(); draw(true); },
    position: (i) => list.indexOf(i),
    at: (position) => list[position],
    count: () => list.length,
    activate: (position) => { active = position; },
    view,
  };
})();
