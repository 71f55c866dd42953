// One trial: pictures of equal size, zoom and flicker in step, the keyboard, the clock.
//
// All pictures are fetched from opaque addresses and shown together once the last one is decoded: no address, no
// name, no size and no moment tells one from another. The next trial's are fetched while this one is looked at.
// Texts are set as text, never as markup. Only questions, hints and scales are HTML, which the server has escaped or made
// of Markdown. The page's own words come from the server, in the study's language. The clock is monotonic: it runs while
// the pictures can be seen, so neither a pause nor a set clock counts.
//
// The files of this folder are joined into one script (`text.TRIAL_SCRIPT`), and each uses what the ones before define.
// This one has constants, elements, the clock, and pictures by address.

const FLICKER_MS = 700; // well below three flashes a second
const SETTLE_MS = 250; // an answer within this time was meant for the trial before
const UNDO_MS = 2000; // an answer can be taken back for so long; then it is sent
const TWICE_MS = 400; // a second press within this time is a double click
const RESEND_MS = 8000;
const RETRY_MS = 1000;
const MAX_ZOOM = 8;

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// True where the levels of a scale say when they fit.
function means(scale) {
  return scale.levels.some(([, text]) => text);
}

// An element with words of the study: HTML that the server has escaped or made of Markdown.
function rich(tag, className, html) {
  const node = make(tag, className);
  node.innerHTML = html;
  for (const link of node.querySelectorAll("a")) {
    link.target = "_blank"; // the page of the trial stays, and its address is not passed on
    link.rel = "noreferrer";
  }
  return node;
}

function button(className, label, onPress, key) {
  const node = make("button", className, make("span", "word", label));
  node.type = "button";
  if (key) {
    node.append(make("kbd", "", key));
    node.setAttribute("aria-keyshortcuts", key);
  }
  node.addEventListener("click", (event) => {
    onPress(event);
    // After a click with the pointer, the button must not react to the space bar.
    if (event.detail > 0) node.blur();
  });
  return node;
}

class Clock {
  // Visible milliseconds of one trial; a reload of the page goes on from where it was.
  constructor(trial) {
    this.slot = `peb-clock-${trial}`;
    this.total = 0;
    this.reloads = 0;
    this.started = null;
    try {
      const kept = JSON.parse(sessionStorage.getItem(this.slot));
      if (kept && kept.total >= 0) {
        this.total = kept.total;
        this.reloads = kept.reloads + 1;
      }
    } catch {
      // Storage may be forbidden. Then a reload starts the clock at 0.
    }
  }

  run() {
    if (this.started === null) this.started = performance.now();
  }

  read() {
    return this.total + (this.started === null ? 0 : performance.now() - this.started);
  }

  stop() {
    if (this.started === null) return;
    this.total += performance.now() - this.started;
    this.started = null;
    try {
      sessionStorage.setItem(this.slot, JSON.stringify({ total: this.total, reloads: this.reloads }));
    } catch {
      // See above.
    }
  }

  forget() {
    try {
      sessionStorage.removeItem(this.slot);
    } catch {
      // See above.
    }
  }
}

class Loader {
  // Pictures by address. Each is fetched once, and a failed request is repeated until it succeeds.
  constructor() {
    this.files = new Map();
  }

  get(address) {
    if (!this.files.has(address)) {
      const stop = new AbortController();
      const file = { stop, url: null, loaded: null };
      file.loaded = this.fetch(address, file).catch((error) => {
        this.files.delete(address); // the next call fetches it again
        throw error;
      });
      file.loaded.catch(() => {}); // nothing may be waiting for a picture that is fetched in advance
      this.files.set(address, file);
    }
    return this.files.get(address).loaded;
  }

  async fetch(address, file) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        const answer = await fetch(new URL(address, document.baseURI), { signal: file.stop.signal });
        if (answer.ok) {
          file.url = URL.createObjectURL(await answer.blob());
          return file.url;
        }
        if (answer.status === 404 || answer.status === 410) throw new Error("gone");
      } catch (error) {
        if (file.stop.signal.aborted || error.message === "gone") throw error;
      }
      await new Promise((done) => setTimeout(done, RETRY_MS * Math.min(8, 2 ** attempt)));
    }
  }

  keep(addresses) {
    for (const [address, file] of this.files) {
      if (addresses.includes(address)) continue;
      this.files.delete(address);
      file.stop.abort();
      if (file.url) URL.revokeObjectURL(file.url);
    }
  }
}
