/* The report's figures, and its files as downloads. */
"use strict";

PEB.figures = (() => {
  const { h } = PEB;

  function show(panel, run) {
    if (!run.figures.length && !run.downloads.length) {
      panel.append(h("p", { class: "notice" }, "This page was written without figures. Write the report again: run_bench.py report RUN"));
      return;
    }
    if (run.figures.length) {
      panel.append(h("section", {}, h("div", { class: "section-head" }, h("h2", {}, "Figures")),
        h("div", { class: "pictures" }, ...run.figures.map(picture))));
    }
    if (run.downloads.length) {
      const files = new Map();
      for (const path of run.downloads) {
        const [, stem, kind] = path.match(/([^/]+)\.(\w+)$/);
        if (!files.has(stem)) files.set(stem, []);
        files.get(stem).push([kind, path]);
      }
      panel.append(h("section", { id: "downloads" }, h("div", { class: "section-head" }, h("h2", {}, "Downloads"), h("p", { class: "small" }, "the files of the report's folder")),
        h("ul", { class: "downloads" }, ...[...files].map(([stem, kinds]) => h("li", {}, h("span", {}, stem),
          ...kinds.map(([kind, path]) => h("a", { href: PEB.path(path), download: "" }, kind.toUpperCase())))))));
    }
  }

  const picture = (figure) => h("figure", { id: `figure-${figure.name}` },
    h("a", { href: PEB.path(figure.png), target: "_blank", rel: "noopener" }, h("img", { src: PEB.path(figure.png), alt: figure.caption, loading: "lazy" })),
    h("figcaption", {}, h("p", {}, figure.caption),
      h("div", { class: "tools" }, h("a", { class: "tool", href: PEB.path(figure.pdf), download: "" }, "PDF"), h("a", { class: "tool", href: PEB.path(figure.png), download: "" }, "PNG"),
        PEB.copier("LaTeX", () => figure.tex, "Copy the figure with its caption, as in figures.tex"))));

  return { show };
})();
