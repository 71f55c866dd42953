/* The first screen: per protocol the verdict, the trade-off plot and six columns of the main table. */
"use strict";

PEB.overview = (() => {
  const { h, svg } = PEB;
  const [WIDTH, HEIGHT] = [440, 340];
  const BOX = { left: 52, right: 14, top: 12, bottom: 44 };

  function show(panel, run) {
    if (!run.overview.length) {
      panel.append(h("p", { class: "notice" }, run.tables.length ? "This run has no main table; its tables are in the next part." : PEB.tables.EMPTY));
      return;
    }
    const looks = new Map(run.methods.map((method) => [method.title, method.look]));
    const names = new Map(run.methods.map((method) => [method.title, method.name]));
    for (const { protocol, table: name, verdict, columns, plot } of run.overview) {
      const info = run.protocols.find((p) => p.name === protocol);
      const table = run.tables.find((one) => one.name === name);
      const chart = plot && tradeOff(table, plot, looks, names);
      const figure = PEB.tables.figure(table, { title: "All categories", chosen: columns, mark: (title) => chart && swatch(looks.get(title)) });
      const section = h("section", { class: "protocol" },
        h("div", { class: "section-head" }, h("h2", {}, protocol),
          h("p", { class: "small" }, `${PEB.plural(info.cases, "case")} · version ${info.version} · digest ${info.digest}`)),
        verdict.length ? h("ul", { class: "verdict" }, ...verdict.map((text) => h("li", {}, text))) : null,
        h("div", { class: chart ? "beside" : null }, chart, figure));
      // The row and the mark of one method belong together.
      section.addEventListener("pointerover", (event) => light(section, event.target.closest("[data-method]")?.dataset.method));
      section.addEventListener("pointerleave", () => light(section, null));
      panel.append(section);
    }
  }

  function light(section, method) {
    for (const element of section.querySelectorAll("[data-method]")) element.classList.toggle("lit", element.dataset.method === method);
    section.classList.toggle("has-lit", Boolean(method && section.querySelector("g[data-method].lit")));
  }

  function swatch(look) {
    const picture = svg("svg", { viewBox: "-0.75 -0.75 1.5 1.5", class: "swatch", "aria-hidden": "true" });
    if (look) picture.append(shape(look));
    return picture;
  }

  const shape = (look) => svg("path", { d: look.path, fill: look.hollow ? "var(--surface)" : look.color, stroke: look.hollow ? look.color : "var(--surface)", "stroke-width": look.hollow ? 0.16 : 0.06 });

  /* Alignment against leakage, with intervals; the controls as lines. The table beside it is its legend. */
  function tradeOff(table, [xName, yName], looks, names) {
    const [x, y] = [xName, yName].map((name) => table.columns.findIndex((column) => column.metric === name));
    const rows = table.rows.filter((row) => row.cells[x].value !== null && row.cells[y].value !== null);
    const points = rows.filter((row) => !row.control);
    if (!points.length) return null;
    const bounds = rows.filter((row) => ["oracle", "copy_input"].includes(names.get(row.method)));
    const ends = (cell) => [cell.value, cell.low, cell.high].filter((v) => v !== null);
    const right = Math.max(...points.flatMap((row) => ends(row.cells[x])), 1e-9) * 1.04;
    const left = -0.05 * right;
    const ys = [...points, ...bounds].flatMap((row) => ends(row.cells[y]));
    const pad = 0.06 * (Math.max(...ys) - Math.min(...ys) || 1);
    const [low, high] = [Math.min(...ys) - pad, Math.max(...ys) + pad];
    const px = (v) => BOX.left + ((v - left) / (right - left)) * (WIDTH - BOX.left - BOX.right);
    const py = (v) => HEIGHT - BOX.bottom - ((v - low) / (high - low)) * (HEIGHT - BOX.top - BOX.bottom);
    const [xc, yc] = [table.columns[x], table.columns[y]];
    const heading = (column) => `${column.heading}${column.sign ? ` ${column.sign}` : ""}`;
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${yc.heading} against ${xc.heading}; the same numbers are in the table` });
    const line = (x1, y1, x2, y2, name) => svg("line", { x1, y1, x2, y2, class: name });
    const label = (text, at, properties) => { const element = svg("text", { ...at, ...properties }); element.textContent = text; return element; };
    for (const v of ticks(0, right)) picture.append(line(px(v), BOX.top, px(v), HEIGHT - BOX.bottom, "grid"), label(tick(v, xc), { x: px(v), y: HEIGHT - BOX.bottom + 15 }, { "text-anchor": "middle" }));
    for (const v of ticks(low, high)) picture.append(line(BOX.left, py(v), WIDTH - BOX.right, py(v), "grid"), label(tick(v, yc), { x: BOX.left - 7, y: py(v) + 4 }, { "text-anchor": "end" }));
    for (const row of bounds) {
      const at = py(row.cells[y].value);
      const name = names.get(row.method);
      picture.append(line(BOX.left, at, WIDTH - BOX.right, at, `bound ${name}`),
        label(row.method.replaceAll("_", " "), { x: WIDTH - BOX.right, y: name === "oracle" ? at - 5 : at + 14 }, { "text-anchor": "end" }));
    }
    picture.append(label(heading(xc), { x: (BOX.left + WIDTH - BOX.right) / 2, y: HEIGHT - 7 }, { "text-anchor": "middle", class: "axis" }),
      label(heading(yc), { transform: `translate(13 ${(BOX.top + HEIGHT - BOX.bottom) / 2}) rotate(-90)` }, { "text-anchor": "middle", class: "axis" }));
    for (const row of points) {
      const look = looks.get(row.method) ?? { color: "gray", path: "M-.5 -.5L.5 -.5L.5 .5L-.5 .5Z", hollow: false };
      const [cx, cy] = [row.cells[x], row.cells[y]];
      const group = svg("g", { "data-method": row.method, stroke: look.color });
      const title = svg("title");
      title.textContent = `${row.method.replaceAll("_", " ")}: ${xc.heading} ${cx.text}${cx.interval ? ` (${cx.interval})` : ""}, ${yc.heading} ${cy.text}${cy.interval ? ` (${cy.interval})` : ""}`;
      group.append(title);
      if (cx.low !== null) group.append(line(px(cx.low), py(cy.value), px(cx.high), py(cy.value), "bar"));
      if (cy.low !== null) group.append(line(px(cx.value), py(cy.low), px(cx.value), py(cy.high), "bar"));
      const place = svg("g", { transform: `translate(${px(cx.value)} ${py(cy.value)}) scale(11)` });
      place.append(shape(look));
      group.append(place);
      picture.append(group);
    }
    return h("figure", { class: "plot" }, picture, h("figcaption", { class: "small" }, "Better is up and left. Error bars: 95 % intervals. The table is the legend."));
  }

  /* Round numbers, about five of them. */
  function ticks(low, high) {
    const rough = (high - low) / 5;
    const size = 10 ** Math.floor(Math.log10(rough));
    const step = size * ([1, 2, 5].find((k) => k * size >= rough) ?? 10);
    const found = [];
    for (let k = Math.ceil(low / step); k * step <= high; k += 1) found.push(k * step);
    return found;
  }

  const tick = (v, column) => { const scaled = column.sign.startsWith("%") ? 100 * v : v; return String(Number(scaled.toPrecision(6))); };

  return { show };
})();
