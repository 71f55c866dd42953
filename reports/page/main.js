/* Puts the parts together: head, tabs, colours, keys, address. */
"use strict";

(() => {
  const { h } = PEB;
  const $ = (id) => document.getElementById(id);
  const run = PEB.get("run");
  if (!run) {
    $("main").replaceChildren(h("p", { class: "wide notice" }, "page/data/run.js is missing: write the report again."));
    return;
  }
  const TABS = ["overview", "tables", "figures", "gallery", "run"];
  let tab = TABS[0];
  let ready = false;

  document.title = `${run.name} · PromptEditBench`;
  $("run-name").textContent = run.name;
  const { counts } = run;
  $("run-facts").append(...[
    PEB.plural(run.protocols.length, "protocol"), PEB.plural(run.methods.length, "method"), PEB.plural(counts.cases, "case"),
    PEB.plural(counts.edits, "edit"), `${PEB.grouped(counts.failed)} failed`, ...(counts.refused ? [`${PEB.grouped(counts.refused)} refused`] : []), run.seeds ? PEB.plural(run.seeds.length, "seed") : `seed ${run.seed}`,
  ].map((text) => h("span", {}, text)));
  PEB.overview.show($("panel-overview"), run);
  PEB.tables.show($("panel-tables"), run);
  PEB.figures.show($("panel-figures"), run);
  PEB.manifest.show($("panel-run"), run);

  // --- colours --------------------------------------------------------------------------------------

  const SCHEMES = { auto: ["◐", "as the system"], light: ["○", "light"], dark: ["●", "dark"] };
  const stored = (() => { try { return localStorage.getItem("peb-scheme"); } catch { return null; } })();
  function scheme(name) {
    document.documentElement.dataset.scheme = name;
    const [glyph, label] = SCHEMES[name];
    $("theme").textContent = glyph;
    $("theme").title = `Colours: ${label}`;
    $("theme").setAttribute("aria-label", `Colours: ${label}`);
    try { localStorage.setItem("peb-scheme", name); } catch { /* a page on disk may have no storage */ }
  }
  scheme(stored in SCHEMES ? stored : "auto");
  $("theme").addEventListener("click", () => {
    const names = Object.keys(SCHEMES);
    scheme(names[(names.indexOf(document.documentElement.dataset.scheme) + 1) % names.length]);
  });

  // --- tabs -----------------------------------------------------------------------------------------

  function show(name) {
    tab = TABS.includes(name) ? name : TABS[0];
    for (const one of TABS) {
      const on = one === tab;
      $(`tab-${one}`).setAttribute("aria-selected", on);
      $(`tab-${one}`).tabIndex = on ? 0 : -1;
      $(`panel-${one}`).hidden = !on;
    }
    if (tab === "gallery" && ready) PEB.gallery.refresh();
  }

  for (const name of TABS) $(`tab-${name}`).addEventListener("click", () => { show(name); address(true); scrollTo(0, 0); });
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(TABS[(TABS.indexOf(tab) + step + TABS.length) % TABS.length]);
    $(`tab-${tab}`).focus();
    address(true);
  });

  // --- address --------------------------------------------------------------------------------------

  let said = "";
  /* Writes the state into the address: as a new entry of the history, or in place of the last. */
  function address(push = false) {
    // Other tabs have an address of their own: the tab, and the table that a link names.
    if (tab !== "gallery" && !push) return;
    const parameters = tab === "gallery" && ready ? PEB.gallery.toAddress() : new URLSearchParams();
    if (PEB.viewer.isOpen() && PEB.viewer.current() >= 0) PEB.viewer.toAddress(parameters);
    const text = parameters.toString();
    const hash = `#${tab}${text ? `?${text}` : ""}`;
    if (hash === said) return;
    said = hash;
    try {
      history[push ? "pushState" : "replaceState"](null, "", hash);
    } catch { /* Some browsers forbid this for pages on disk. The page works without it. */ }
  }

  async function follow() {
    const [name, query] = (location.hash.slice(1) || TABS[0]).split(/\?(.*)/s);
    said = location.hash;
    show(name);
    PEB.tables.reveal(new URLSearchParams(query ?? ""));
    if (!ready || tab !== "gallery") {
      if (PEB.viewer.isOpen()) PEB.viewer.close();
      return;
    }
    const parameters = new URLSearchParams(query ?? "");
    await PEB.gallery.fromAddress(parameters);
    const i = parameters.has("edit") ? PEB.gallery.find(parameters.get("edit")) : -1;
    PEB.viewer.fromAddress(parameters);
    if (i >= 0) PEB.viewer.show(i);
    else if (PEB.viewer.isOpen()) PEB.viewer.close();
  }
  addEventListener("popstate", follow);
  addEventListener("hashchange", () => { if (location.hash !== said) follow(); });

  // --- keys -----------------------------------------------------------------------------------------

  const help = $("help");
  $("help-open").addEventListener("click", () => help.showModal());
  $("help-close").addEventListener("click", () => help.close());
  help.addEventListener("click", (event) => { if (event.target === help) help.close(); });
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || PEB.typing(event.target)) return;
    if (event.key === "?") help.open ? help.close() : help.showModal();
    else if (help.open || PEB.viewer.isOpen()) return;
    else if (TABS[Number(event.key) - 1]) { show(TABS[Number(event.key) - 1]); $(`tab-${tab}`).focus(); address(true); }
    else if (event.key === "/") {
      show("gallery");
      $("filters-fold").open = true;
      $("f-text").focus();
      address(true);
    } else if (event.key === "ArrowDown" && tab === "gallery" && (event.target === document.body || event.target.id === "tab-gallery")) PEB.gallery.focusCard(0);
    else return;
    event.preventDefault();
  });

  // On a phone the filters are folded, so that images come first.
  if (matchMedia("(max-width: 700px)").matches) $("filters-fold").open = false;

  show((location.hash.slice(1) || TABS[0]).split("?")[0]);
  PEB.viewer.start(run, PEB.gallery, () => address());
  PEB.gallery.start(run, (i) => { PEB.viewer.show(i); address(); }, () => { if (ready) address(); })
    .then(async () => {
      PEB.gallery.listen();
      ready = true;
      if (tab !== "gallery") await PEB.gallery.fromAddress(new URLSearchParams());
      await follow();
      document.documentElement.dataset.ready = "true";
    })
    .catch((error) => {
      $("count").textContent = "";
      $("empty").hidden = false;
      $("empty").textContent = error.message;
      document.documentElement.dataset.ready = "failed";
    });
})();
