/* Helpers that all scripts share: loading of data chunks, creation of elements, the address. */
"use strict";

const PEB = (() => {
  const data = new Map();
  const waiting = new Map();
  const base = new URL("./", document.currentScript.src).href;

  /* Called by the data scripts, once per chunk. */
  function put(name, value) {
    data.set(name, value);
  }

  const get = (name) => data.get(name);

  /* A chunk by its name, loaded on first use. It is a script, since a page on disk may not fetch files. */
  function load(name) {
    if (data.has(name)) return Promise.resolve(data.get(name));
    if (!waiting.has(name)) {
      waiting.set(name, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = `${base}data/${name.replaceAll("/", "-")}.js`;
        script.onload = () => {
          waiting.delete(name);
          script.remove();
          data.has(name) ? resolve(data.get(name)) : reject(new Error(`${script.src} does not hold ${name}`));
        };
        script.onerror = () => {
          waiting.delete(name);
          script.remove();
          reject(new Error(`${script.src} is missing: write the report again`));
        };
        document.head.append(script);
      }));
    }
    return waiting.get(name);
  }

  /* Creates an element. Text from the data is never parsed as HTML. */
  function h(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "class") element.className = value;
      else if (name === "style") Object.assign(element.style, value);
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name in element && typeof value !== "string" && typeof value !== "number") element[name] = value;
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
    return element;
  }

  const svg = (tag, properties = {}) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
    return element;
  };

  const path = (name) => name.split("/").map(encodeURIComponent).join("/").replaceAll("%2E%2E", "..");

  /* Thousands in groups; short enough for a card. */
  const grouped = new Intl.NumberFormat("en").format;
  const plural = (n, one, many = `${one}s`) => `${grouped(n)} ${n === 1 ? one : many}`;
  function short(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 100) return value.toFixed(0);
    if (size >= 10) return value.toFixed(1);
    if (size >= 0.0995) return value.toFixed(2);
    return size >= 0.0001 ? String(Number(value.toPrecision(2))) : value.toExponential(0);
  }

  /* A method of the run as headings and filters name it, with its remark, such as "under-trained". */
  const named = (method) => [method.title.replaceAll("_", " "), method.remark].filter(Boolean).join(", ");

  const words = (name) => name.replaceAll("_", "-");

  /* Buttons of which one is selected. Arrow keys move the selection, as in a group of radio buttons. */
  function segments(group, choose) {
    const buttons = () => [...group.querySelectorAll("[role=radio]")].filter((button) => !button.hidden);
    const select = (value) => {
      for (const button of group.querySelectorAll("[role=radio]")) {
        const on = button.dataset.value === value;
        button.setAttribute("aria-checked", on);
        button.tabIndex = on ? 0 : -1;
      }
    };
    group.addEventListener("click", (event) => {
      const button = event.target.closest("[role=radio]");
      if (button) choose(button.dataset.value);
    });
    group.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const all = buttons();
      const next = all[(all.indexOf(event.target) + step + all.length) % all.length];
      next.focus();
      choose(next.dataset.value);
    });
    return select;
  }

  /* A button that copies a text and confirms it. The text may be loaded first. */
  function copier(label, text, title) {
    const button = h("button", { class: "tool", title }, `Copy ${label}`);
    button.addEventListener("click", async () => {
      let said = "Copied";
      try {
        await copy(await text());
      } catch (error) {
        said = "Not copied";
        button.title = error.message;
      }
      button.textContent = said;
      setTimeout(() => { button.textContent = `Copy ${label}`; }, 1500);
    });
    button.setAttribute("aria-live", "polite");
    return button;
  }

  async function copy(text) {
    if (navigator.clipboard) {
      try {
        await navigator.clipboard.writeText(text);
        return;
      } catch { /* Pages on disk may not use the clipboard API: the older way follows. */ }
    }
    const area = h("textarea", { class: "skip" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) throw new Error("This browser does not let a page copy. The same text is in the report's folder.");
  }

  const typing = (target) => target.closest?.("input:not([type=checkbox]), select, textarea") !== null;

  return { put, get, load, copier, h, svg, path, grouped, plural, short, named, words, segments, typing };
})();
