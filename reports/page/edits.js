/* All edits and cases of a run, as columns, and the files that show them. */
"use strict";

PEB.edits = (() => {
  let run;

  /* Columns over all edits, and over all cases. */
  const edits = { method: null, case: null, failed: null, refused: null, seed: null, files: new Map(), thumbs: [], n: 0 };
  const cases = { n: 0, id: [], protocol: [], category: [], source_id: [], source: [], mask: [], truth: [], references: [], words: [],
    source_prompt: [], target_prompt: [], region_prompt: [], instruction: [], thumb: [], search: null };
  const columns = new Map(); /* metric -> Float64Array, NaN where there is none */

  /* Everything that the gallery needs from the start, with the values of some metrics. */
  async function load(theRun, metrics) {
    run = theRun;
    const { counts, parts } = run;
    edits.n = counts.edits;
    edits.method = new Uint16Array(edits.n);
    edits.case = new Int32Array(edits.n);
    edits.failed = new Uint8Array(edits.n);
    edits.refused = new Uint8Array(edits.n);
    edits.seed = new Uint16Array(edits.n);
    const chunks = (total, size) => [...Array(Math.ceil(total / size)).keys()];
    await Promise.all([
      ...chunks(counts.edits, parts.edits).map(async (k) => {
        const part = await PEB.load(`edits/${k}`);
        const from = k * parts.edits;
        edits.method.set(part.method, from);
        edits.case.set(part.case, from);
        for (const i of part.failed) edits.failed[from + i] = 1;
        for (const i of part.refused) edits.refused[from + i] = 1;
        if (part.seed) edits.seed.set(part.seed, from);
        part.thumbs.forEach((name, i) => { edits.thumbs[from + i] = name; });
        for (const [i, file] of Object.entries(part.files)) edits.files.set(from + Number(i), file);
      }),
      ...chunks(counts.cases, parts.cases).map(async (k) => {
        const part = await PEB.load(`cases/${k}`);
        const from = k * parts.cases;
        for (const name of Object.keys(part)) part[name].forEach((value, i) => { cases[name][from + i] = value; });
        cases.n = Math.max(cases.n, from + part.id.length);
      }),
      ...metrics.map(column),
    ]);
  }

  async function column(name) {
    if (!name || columns.has(name)) return;
    const m = run.metrics.findIndex((metric) => metric.name === name);
    const { counts, parts } = run;
    const values = new Float64Array(counts.edits).fill(NaN);
    await Promise.all([...Array(Math.ceil(counts.edits / parts.edits)).keys()].map(async (k) => {
      const part = await PEB.load(`column/${m}/${k}`);
      part.forEach((value, i) => { if (value !== null) values[k * parts.edits + i] = value; });
    }));
    columns.set(name, values);
  }

  const value = (name, i) => { const of = columns.get(name); return of ? of[i] : NaN; };

  function file(i) {
    const method = run.methods[edits.method[i]];
    const c = edits.case[i];
    const name = edits.files.get(i) ?? `edits/${run.protocols[cases.protocol[c]].name}/${method.name}-${method.digest}/${cases.id[c]}.png`;
    return PEB.path(`${run.root}/${name}`);
  }

  const below = (c, name) => PEB.path(`${run.root}/cases/${run.protocols[cases.protocol[c]].name}/${name}`);
  const caseFile = (c, kind) => cases[kind][c] === null ? null : below(c, cases[kind][c]);
  const referenceFiles = (c) => cases.references[c].map((name) => below(c, name));

  /* File of the small copy, for large images. */
  const small = (name, whole) => (name ? PEB.path(`page/thumbs/${name}`) : whole);
  const smallFile = (i) => small(edits.thumbs[i], file(i));
  const smallSource = (c) => small(cases.thumb[c], caseFile(c, "source"));

  /* The edits of one case, in the order of the methods. They stand next to each other. */
  function siblings(i) {
    const c = edits.case[i];
    let [from, to] = [i, i + 1];
    while (from > 0 && edits.case[from - 1] === c) from -= 1;
    while (to < edits.n && edits.case[to] === c) to += 1;
    return [...Array(to - from).keys()].map((k) => from + k);
  }

  const method = (i) => PEB.named(run.methods[edits.method[i]]);
  /* Named in a run of several seeds only. */
  const seed = (i) => (run.seeds ? `seed ${run.seeds[edits.seed[i]]}` : "");
  const title = (i) => [method(i), seed(i)].filter(Boolean).join(", ");

  /* An edit's name in the address: the same in every report of the run. */
  const name = (i) => `${run.protocols[cases.protocol[edits.case[i]]].name}/${run.methods[edits.method[i]].digest}/${cases.id[edits.case[i]]}${run.seeds ? `/${run.seeds[edits.seed[i]]}` : ""}`;

  function find(text) {
    const [protocol, digest, id, seed] = text.split("/");
    for (let i = 0; i < edits.n; i += 1) {
      const c = edits.case[i];
      if (cases.id[c] === id && run.methods[edits.method[i]].digest === digest && run.protocols[cases.protocol[c]].name === protocol
        && (seed === undefined || !run.seeds || String(run.seeds[edits.seed[i]]) === seed)) return i;
    }
    return -1;
  }

  return { edits, cases, columns, load, column, value, file, caseFile, referenceFiles, smallFile, smallSource, siblings, method, seed, title, name, find };
})();
