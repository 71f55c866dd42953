/* The tables: sortable by every column, columns chosen, controls kept apart, each interval drawn under its value. */
"use strict";

PEB.tables = (() => {
  const { h } = PEB;
  const built = new Map(); /* name -> functions of its figure */
  const folds = new Map(); /* name -> the folded section that holds it */

  const EMPTY = "This run has no scores yet. Score it, and write the report again.";

  /* All tables but those of the overview, folded, by protocol. */
  function show(panel, run) {
    if (!run.tables.length) {
      panel.append(h("p", { class: "notice" }, EMPTY));
      return;
    }
    const above = new Set(run.overview.map((one) => one.table));
    const byProtocol = new Map(run.protocols.map((p) => [p.name, []]));
    for (const table of run.tables.filter((one) => !above.has(one.name))) {
      const protocol = protocolOf(table, run);
      if (!byProtocol.has(protocol)) byProtocol.set(protocol, []);
      byProtocol.get(protocol).push(table);
    }
    for (const [protocol, tables] of byProtocol) {
      if (!tables.length) continue;
      panel.append(h("section", { class: "protocol" },
        h("div", { class: "section-head" }, h("h2", {}, protocol || "Across protocols"),
          h("p", { class: "small" }, PEB.plural(tables.length, "table"))),
        ...tables.map((table) => fold(table, protocol))));
    }
  }

  /* Titles begin with the protocol: "mini-coco: all categories". */
  const protocolOf = (table, run) => run.protocols.find((p) => table.title.startsWith(`${p.name}:`))?.name ?? "";

  function caption(table, protocol) {
    const name = protocol ? table.title.replace(`${protocol}: `, "") : table.title;
    /* The name of a metric, such as judge_follow, stays as it is. */
    return /^[a-z]+_/.test(name) ? name : name[0].toUpperCase() + name.slice(1);
  }

  /* A table is made when it is first opened. */
  function fold(table, protocol) {
    const part = h("details", { class: "fold" },
      h("summary", {}, caption(table, protocol), h("span", { class: "small" }, `${PEB.plural(table.rows.length, "row")}, ${PEB.plural(table.columns.length, "column")}`)));
    part.addEventListener("toggle", () => { if (part.open && !built.has(table.name)) part.append(figure(table)); });
    folds.set(table.name, { part, open: () => { if (!built.has(table.name)) part.append(figure(table)); part.open = true; } });
    return part;
  }

  /* `chosen`: metrics of the columns that are shown at first, all without it. `mark`: what stands before a method. */
  function figure(table, { title = "", chosen = null, mark = null } = {}) {
    const bodies = [h("tbody"), h("tbody", { class: "controls" })];
    const rows = table.rows.map((row, order) => ({ row, order, element: line(row, table, mark) }));
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
      const arrow = h("span", { class: "sort-mark", "aria-hidden": "true" });
      const button = h("button", { class: "sort", title: column ? `${column.metric}: sort` : "Sort" },
        h("span", {}, column?.reported ? `${text} (reported)` : text), sign && (sign.length > 1 ? " " : "\u00a0"), sign && h("span", { class: "sign" }, sign), column?.n != null && h("span", { class: "interval" }, `n=${PEB.grouped(column.n)}`), arrow);
      const cell = h("th", { scope: "col" }, button);
      const entry = { cell, mark: arrow, order, first };
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
          // Rows without a value stand last in both directions.
          return Math.abs(found) === Infinity ? Math.sign(found) : way * found || a.order - b.order;
        });
      }
      bodies.forEach((body, control) => {
        body.replaceChildren(...ordered.filter(({ row }) => Number(row.control) === control).map(({ element }) => element));
      });
    }

    for (const { cell } of heads) cell.setAttribute("aria-sort", "none");
    place();

    // Columns. The heading of a group spans those of its columns that are shown.
    const all = table.columns.map((column) => column.key);
    const start = chosen ? table.columns.filter((column) => chosen.includes(column.metric)).map((column) => column.key) : all;
    let visible = new Set(start);
    const thead = h("thead", {});
    const boxes = table.columns.map((column) => h("input", { type: "checkbox", onchange: (event) => {
      event.target.checked ? visible.add(column.key) : visible.delete(column.key);
      select([...visible]);
    } }));
    const count = h("span", { class: "count" });
    const chooser = h("details", { class: "chooser" },
      h("summary", { class: "tool" }, "Columns ", count),
      h("div", { class: "choices" }, ...table.columns.map((column, i) => h("label", {}, boxes[i], ` ${[column.group, column.heading].filter(Boolean).join(": ")}`)),
        h("div", { class: "choices-foot" }, h("button", { class: "quiet", onclick: () => select(all) }, "All"), h("button", { class: "quiet", onclick: () => select(start) }, "As at first"))));
    chooser.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !chooser.open) return;
      chooser.open = false;
      chooser.querySelector("summary").focus();
      event.stopPropagation();
    });
    document.addEventListener("click", (event) => { if (!chooser.contains(event.target)) chooser.open = false; });

    function select(keys) {
      const known = keys.filter((key) => all.includes(key));
      visible = new Set(known.length ? known : start);
      all.forEach((key, i) => {
        const on = visible.has(key);
        boxes[i].checked = on;
        heads[i + 1].cell.hidden = !on;
        for (const { element } of rows) element.children[i + 1].hidden = !on;
      });
      count.textContent = `${visible.size} of ${all.length}`;
      thead.replaceChildren(...[groups(table, visible), h("tr", {}, ...heads.map(({ cell }) => cell))].filter(Boolean));
    }
    select(start);

    // Tools.
    const text = (kind) => PEB.load("texts").then((texts) => texts[table.name][kind]);
    const address = () => {
      const parameters = new URLSearchParams({ table: table.name });
      if (visible.size !== start.length || start.some((key) => !visible.has(key))) parameters.set("columns", all.filter((key) => visible.has(key)).join(","));
      return `${location.href.split("#")[0]}#${chosen ? "overview" : "tables"}?${parameters}`;
    };
    const tools = h("div", { class: "tools" }, table.columns.length > 1 ? chooser : null,
      PEB.copier("LaTeX", () => text("tex"), `Copy the whole table as LaTeX, as in ${table.name}.tex`),
      PEB.copier("CSV", () => text("csv"), `Copy the whole table as CSV, as in ${table.name}.csv`),
      PEB.copier("Link", address, "Copy the address of this table with these columns"));
    const element = h("figure", { class: "table-figure" },
      h("figcaption", {}, h("span", {}, title), tools),
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": table.title },
        h("table", { id: `table-${table.name}` }, thead, ...bodies.filter((body) => body.children.length))),
      key(table), notes(table));
    built.set(table.name, { element, select });
    return element;
  }

  /* Explains the signs that this table uses. */
  function key(table) {
    const cells = table.rows.flatMap((row) => row.cells);
    const some = (test) => cells.some(test);
    const parts = [
      some((c) => c.best) && [h("b", {}, "bold"), ": best method"],
      some((c) => c.second) && [h("span", { class: "second" }, "underlined"), ": second"],
      some((c) => c.tie) && ["≈ interval overlaps the best one's"],
      some((c) => c.dagger) && ["† not separable from the best"],
      some((c) => c.interval) && ["small: 95 % interval"],
      table.columns.some((c) => c.higher !== null) && ["↑ higher is better, ↓ lower"],
      table.rows.some((row) => row.control) && ["gray: controls, never marked"],
    ].filter(Boolean);
    return parts.length ? h("p", { class: "key" }, ...parts.map((part) => h("span", {}, ...part))) : null;
  }

  function notes(table) {
    if (!table.notes.length) return null;
    return h("details", { class: "notes" }, h("summary", {}, PEB.plural(table.notes.length, "note")), ...table.notes.map((note) => h("p", {}, note)));
  }

  /* The headings above neighbours of one group, where the table has any. */
  function groups(table, visible) {
    if (!table.columns.some((column) => column.group)) return null;
    const spans = [];
    for (const { group, key: name } of table.columns) {
      if (!visible.has(name)) continue;
      if (spans.length && spans.at(-1)[0] === group) spans.at(-1)[1] += 1;
      else spans.push([group, 1]);
    }
    return h("tr", { class: "groups" }, h("td"), ...spans.map(([group, width]) => h("th", { scope: "colgroup", colspan: width }, h("span", {}, group))), h("td", { colspan: 2 }));
  }

  function compare(a, b) {
    if (a === null || b === null) return a === b ? 0 : a === null ? Infinity : -Infinity;
    return a - b;
  }

  function line(row, table, mark) {
    return h("tr", { "data-method": row.method },
      h("th", { scope: "row" }, mark?.(row.method), row.method.replaceAll("_", " ") + (row.setting ? `, ${row.setting}` : "")),
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

  /* Draws interval and value on the scale of the column, so that overlaps are visible. */
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

  /* Opens the table of an address, with the columns that it names. */
  function reveal(parameters) {
    const name = parameters.get("table");
    if (!name) return;
    folds.get(name)?.open();
    const one = built.get(name);
    if (!one) return;
    if (parameters.get("columns")) one.select(parameters.get("columns").split(","));
    (folds.get(name)?.part ?? one.element).scrollIntoView();
  }

  return { show, figure, reveal, EMPTY };
})();
