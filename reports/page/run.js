/* Configuration of the run: protocols, methods with options and weights, metrics, versions, suite. */
"use strict";

PEB.manifest = (() => {
  const { h } = PEB;

  function show(panel, run) {
    const { counts } = run;
    panel.append(
      h("section", {},
        h("div", { class: "section-head" }, h("h2", {}, "This run")),
        pairs([
          ["name", run.name], [run.seeds ? "seeds" : "seed", (run.seeds ?? [run.seed]).join(", ")], ["edits", PEB.grouped(counts.edits)], ["failed edits", PEB.grouped(counts.failed)],
          ["cases", PEB.grouped(counts.cases)], ["scores", PEB.grouped(counts.scores)],
        ])),
      h("section", {},
        h("div", { class: "section-head" }, h("h2", {}, "Protocols")),
        h("div", { class: "cards" }, ...run.protocols.map((protocol) => h("article", {},
          h("h3", {}, protocol.name),
          pairs([["version", protocol.version], ["digest", code(protocol.digest)], ["cases", PEB.grouped(protocol.cases)],
            ["canvas px", protocol.canvas === null ? "each source's own" : [protocol.canvas].flat().join(" × ")], ...flat({ ...protocol.options, canvas: undefined })]))))),
      h("section", {},
        h("div", { class: "section-head" }, h("h2", {}, "Methods"),
          h("p", { class: "small" }, "The digest is of the name and every option that changes pixels, weights included.")),
        h("div", { class: "cards" }, ...run.methods.map((method) => h("article", {},
          h("h3", {}, PEB.named(method), method.control ? h("span", { class: "badge" }, "control") : null),
          pairs([["method", method.name], ["digest", code(method.digest)], ["dtype", method.dtype], ["device", (method.devices ?? []).join(", ")],
            ["seconds per edit", PEB.short(method.seconds)], ["failed", PEB.grouped(method.failed)], ...flat(method.options)]))))),
      h("section", {},
        h("div", { class: "section-head" }, h("h2", {}, "Metrics of single edits")),
        h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Metrics" }, h("table", { class: "legend" },
          h("thead", {}, h("tr", {}, ...["Metric", "Name", "Version", "Better", "Unit", "What it is"].map((text) => h("th", { scope: "col" }, text)))),
          h("tbody", {}, ...run.metrics.map((metric) => h("tr", {},
            h("th", { scope: "row" }, metric.heading), h("td", {}, code(metric.name)), h("td", {}, metric.version),
            h("td", {}, metric.higher === null ? "–" : metric.higher ? "higher" : "lower"), h("td", {}, metric.unit), h("td", { class: "prose" }, metric.summary))))))),
      h("section", {},
        h("div", { class: "section-head" }, h("h2", {}, "Versions")),
        pairs(Object.entries(run.versions))));
    if (run.suite) {
      panel.append(h("section", {},
        h("div", { class: "section-head" }, h("h2", {}, "Suite")),
        h("pre", { tabindex: 0, "aria-label": "The suite" }, JSON.stringify(run.suite, null, 2))));
    }
  }

  const code = (text) => h("code", {}, text ?? "–");

  /* Nested options as dotted names. */
  function flat(value, prefix = "") {
    return Object.entries(value ?? {}).filter(([, item]) => item !== undefined).flatMap(([name, item]) =>
      item !== null && typeof item === "object" && !Array.isArray(item)
        ? flat(item, `${prefix}${name.replace(/^_identity$/, "weights")}.`)
        : [[prefix + name, item === "" ? "" : h("code", {}, Array.isArray(item) ? item.join(", ") || "none" : String(item))]]);
  }

  const pairs = (rows) => h("dl", { class: "facts" }, ...rows
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value instanceof Node ? value : String(value))]));

  return { show, pairs };
})();
