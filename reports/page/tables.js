/* The tables: sortable by every column, controls kept apart, each interval drawn under its value. */
"use strict";

PEB.tables = (() => {
  const { h } = PEB;

  function show(panel, run) {
    if (!run.tables.length) {
      panel.append(h("p", { class: "notice" }, "This run has no scores yet. Score it, and write the report again."));
      return;
    }
    const byProtocol = new Map(run.protocols.map((p) => [p.name, []]));
    for (const table of run.tables) {
      // Titles begin with the protocol: "mini-coco: all categories".
      const protocol = run.protocols.find((p) => table.title.startsWith(`${p.name}:`))?.name ?? "";
      if (!byProtocol.has(protocol)) byProtocol.set(protocol, []);
      byProtocol.get(protocol).push(table);
    }
    for (const [protocol, tables] of byProtocol) {
      if (!tables.length) continue;
      const info = run.protocols.find((p) => p.name === protocol);
      const section = h("section", { class: "protocol" },
        h("div", { class: "section-head" },
          h("h2", {}, protocol || "Across protocols"),
          info && h("p", { class: "small" }, `${PEB.plural(info.cases, "case")} · version ${info.version} · digest ${info.digest}`)));
      const first = tables.filter((table) => !protocol || (/^(main|suite|success)/.test(table.name) && !table.name.includes("-pasted-")));
      const rest = tables.filter((table) => !first.includes(table));
      for (const table of first) section.append(figure(table, protocol));
      if (rest.length) {
        section.append(h("details", { class: "more" },
          h("summary", {}, `${PEB.plural(rest.length, "more table")}: ${rest.map((table) => caption(table, protocol)).join(", ")}`),
          ...rest.map((table) => figure(table, protocol))));
      }
      panel.append(section);
    }
    const notes = [...new Set(run.tables.flatMap((table) => table.notes))];
    panel.append(h("div", { class: "notes" }, ...notes.map((note) => h("p", {}, note))));
  }

  const caption = (table, protocol) => table.title.replace(`${protocol}: `, "");

  function figure(table, protocol) {
    const bodies = [h("tbody"), h("tbody", { class: "controls" })];
    const rows = table.rows.map((row, order) => ({ row, order, element: line(row, table) }));
    const heads = [
      head("Method", "", (a, b) => a.row.method.localeCompare(b.row.method), 1),
      ...table.columns.map((column, i) =>
        head(column.heading, column.sign, (a, b) => compare(a.row.cells[i].value, b.row.cells[i].value),
          column.higher === false ? 1 : -1, column)),
      head("n", "", (a, b) => a.row.n - b.row.n, -1),
      head("failed", "", (a, b) => a.row.failed - b.row.failed, -1),
    ];
    let sorted = null;
    let way = 1;

    function head(text, sign, order, first, column) {
      const mark = h("span", { class: "sort-mark", "aria-hidden": "true" });
      const button = h("button", { class: "sort", title: column ? `${column.metric}: sort` : "Sort" },
        h("span", {}, column?.reported ? `${text} (reported)` : text), sign && (sign.length > 1 ? " " : "\u00a0"), sign && h("span", { class: "sign" }, sign), column?.n != null && h("span", { class: "interval" }, `n=${PEB.grouped(column.n)}`), mark);
      const cell = h("th", { scope: "col" }, button);
      const entry = { cell, mark, order, first };
      button.addEventListener("click", () => sort(entry));
      return entry;
    }

    /* First click: best first; second: the other way; third: as written. */
    function sort(entry) {
      if (sorted !== entry) [sorted, way] = [entry, entry.first];
      else if (way === entry.first) way = -way;
      else sorted = null;
      for (const one of heads) {
        const on = one === sorted;
        one.cell.setAttribute("aria-sort", on ? (way > 0 ? "ascending" : "descending") : "none");
        one.mark.textContent = on ? (way > 0 ? "▲" : "▼") : "";
      }
      place();
    }

    function place() {
      const ordered = [...rows];
      if (sorted) {
        ordered.sort((a, b) => {
          const found = sorted.order(a, b);
          // What has no value stands last, whichever way.
          return Math.abs(found) === Infinity ? Math.sign(found) : way * found || a.order - b.order;
        });
      }
      bodies.forEach((body, control) => {
        body.replaceChildren(...ordered.filter(({ row }) => Number(row.control) === control).map(({ element }) => element));
      });
    }

    for (const { cell } of heads) cell.setAttribute("aria-sort", "none");
    place();
    const name = caption(table, protocol);
    return h("figure", { class: "table-figure" },
      h("figcaption", {}, name[0].toUpperCase() + name.slice(1)),
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": table.title },
        h("table", { id: `table-${table.name}` },
          h("thead", {}, groups(table), h("tr", {}, ...heads.map(({ cell }) => cell))), ...bodies.filter((body) => body.children.length))));
  }

  /* The headings above neighbours of one group, where the table has any. */
  function groups(table) {
    if (!table.columns.some((column) => column.group)) return null;
    const spans = [];
    for (const { group } of table.columns) {
      if (spans.length && spans.at(-1)[0] === group) spans.at(-1)[1] += 1;
      else spans.push([group, 1]);
    }
    return h("tr", { class: "groups" }, h("td"), ...spans.map(([group, width]) => h("th", { scope: "colgroup", colspan: width }, h("span", {}, group))), h("td", { colspan: 2 }));
  }

  function compare(a, b) {
    if (a === null || b === null) return a === b ? 0 : a === null ? Infinity : -Infinity;
    return a - b;
  }

  function line(row, table) {
    return h("tr", {},
      h("th", { scope: "row" }, row.method.replaceAll("_", " ")),
      ...row.cells.map((cell, i) => value(cell, table, i)),
      h("td", { class: "plain" }, PEB.grouped(row.n)),
      h("td", { class: row.failed ? "plain bad" : "plain" }, PEB.grouped(row.failed)));
  }

  function value(cell, table, column) {
    const text = h("span", { class: "value" }, cell.tie ? h("span", { class: "tie", title: "Its interval overlaps the best one's." }, "≈ ") : null, h("span", { class: cell.second ? "second" : null }, cell.text),
      cell.dagger ? h("sup", { title: "Not separable from the best." }, "†") : null);
    const content = [text];
    if (cell.interval) content.push(h("span", { class: "interval" }, cell.interval), whisker(cell, table, column));
    if (cell.own_n !== null) content.push(h("span", { class: "interval" }, `n=${PEB.grouped(cell.own_n)}`));
    const kinds = [cell.best && "best", cell.value === null && "none", table.columns[column].reported && "reported"].filter(Boolean);
    return h("td", { class: kinds.join(" ") || null }, content);
  }

  /* The interval and its value on the column's own scale: what overlaps can be seen. */
  function whisker(cell, table, column) {
    const ends = table.rows.flatMap((row) => [row.cells[column].low, row.cells[column].high, row.cells[column].value]).filter((v) => v !== null);
    const [low, high] = [Math.min(...ends), Math.max(...ends)];
    if (low === high) return null;
    const at = (v) => (100 * (v - low)) / (high - low);
    const percent = (v) => `${v.toFixed(2)}%`;
    return h("span", { class: "whisker", "aria-hidden": "true" },
      h("i", { class: "span", style: { left: percent(at(cell.low)), width: percent(at(cell.high) - at(cell.low)) } }),
      h("i", { class: "dot", style: { left: percent(at(cell.value)) } }));
  }

  return { show };
})();
