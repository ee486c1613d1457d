// Shows the rollouts of training runs, from the data files beside this one.
//
// All text of models and problems becomes text nodes, never HTML. Lists and
// their columns are described in evals/rollout_pages.py, which writes them.
"use strict";

const [
  RUN, PROBLEM, STEP, GROUP, LANE, PREFIX, FRACTION, REWARD, TRUNCATED, LENGTH,
  LOGPROB, ADVANTAGE, RESCORED, PAGE,
] = Array(14).keys();
const PROBLEMS_A_PAGE = 50, ROLLOUTS_A_PAGE = 100;

const $ = (selector) => document.querySelector(selector);
const filters = $("#filters");
let data; // index, problems, outcomes, rollouts
let found = []; // places in the list of rollouts, as the filters have it
let problemPage = 0, rolloutPage = 0;

// -- Data files -----------------------------------------------------------------

const waiting = new Map(), loaded = new Map();

// Data files call it.
function rolloutData(name, number, value) {
  waiting.get(`${name}_${number}`)?.(value);
}

function load(name, number) {
  const file = `${name}_${number}`;
  if (!loaded.has(file)) {
    loaded.set(file, new Promise((resolve, reject) => {
      waiting.set(file, resolve);
      const script = document.createElement("script");
      script.src = `data/${file}.js`;
      script.onerror = () => {
        loaded.delete(file);
        reject(new Error(`data/${file}.js is missing or damaged;`
          + " --stage=report writes this folder anew."));
      };
      document.head.append(script);
    }));
  }
  return loaded.get(file);
}

async function loadList(name, count) {
  const numbers = [...Array(count).keys()];
  return (await Promise.all(numbers.map((n) => load(name, n)))).flat();
}

// -- Elements and text ----------------------------------------------------------

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") made.addEventListener("click", value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.map((c) => c ?? ""));
  return made;
}

// Characters that would not be seen, or would move others around.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

function visible(text) {
  return text.replace(HIDDEN, (c) =>
    `‹U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`);
}

function pieceText(piece) {
  if (piece === "") return "▫"; // no text, or part of the character before
  return visible(piece).replaceAll("\t", "⇥\t").replaceAll("\n", "↵\n");
}

const percent = (share) => `${Math.round(100 * share)}\u00a0%`;
const signed = (x, digits = 2) => `${x > 0 ? "+" : ""}${x.toFixed(digits)}`;
const counted = (n, one) => `${n.toLocaleString("en")} ${one}${n === 1 ? "" : "s"}`;

// -- State: the form, and what is chosen; all of it is in the address -------------

const chosen = { problem: "", rollout: "" };

function choices() {
  return { ...Object.fromEntries(new FormData(filters)), ...chosen };
}

function writeAddress() {
  const given = Object.entries(choices()).filter(([, value]) => value !== "");
  history.replaceState(null, "", `#${new URLSearchParams(given)}`);
}

function readAddress() {
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    if (name in chosen) chosen[name] = value;
    else if (filters.elements[name]) filters.elements[name].value = value;
  }
}

function runsChosen() {
  const { arm, seed } = choices();
  const places = [...data.index.runs.keys()];
  return new Set(places.filter((i) => {
    const run = data.index.runs[i];
    return (!arm || run.arm === arm) && (!seed || String(run.seed) === seed);
  }));
}

function matches(problem, words) {
  const [id, excerpt] = data.problems[problem];
  return `${id} ${excerpt}`.toLowerCase().includes(words.toLowerCase());
}

// -- Problems -------------------------------------------------------------------

const earliest = (a, b) => (a === null ? b : b === null ? a : Math.min(a, b));

// What came of each problem in the chosen runs together.
function outcomes() {
  const runs = runsChosen(), all = new Map();
  for (const [problem, run, ...o] of data.outcomes) {
    if (!runs.has(run)) continue;
    const sum = all.get(problem);
    if (!sum) all.set(problem, o);
    else {
      for (const i of [0, 2, 4, 5, 6, 7]) sum[i] += o[i];
      for (const i of [1, 3]) sum[i] = earliest(sum[i], o[i]);
    }
  }
  return all;
}

const SHOWN = {
  "": () => true,
  flipped: ([, without]) => without !== null,
  prefixed: ([, without, , prefixed]) => without === null && prefixed !== null,
  never: ([, without, , prefixed]) => without === null && prefixed === null,
};

function firstSolved([tries, without]) {
  if (without !== null) return `solved at step ${without}`;
  return tries ? "never solved" : "not tried";
}

function beside([, , tries, prefixed, ...evaluated]) {
  const when = prefixed === null ? "never" : `step ${prefixed}`;
  const [right, of, rightAfter, ofAfter] = evaluated;
  return [
    ...(tries ? [`after a prefix: ${when}`] : []),
    ...(of && ofAfter
      ? [`evaluated: ${right}/${of} → ${rightAfter}/${ofAfter}`] : []),
  ].join(", ");
}

function showProblems() {
  const { find, show, sort, problem: current } = choices();
  let rows = [...outcomes()]
    .filter(([problem, o]) => SHOWN[show](o) && matches(problem, find))
    .sort(([a], [b]) => a - b);
  const first = ([, o]) => o[1] ?? Infinity;
  if (sort === "first") rows.sort((a, b) => (first(a) > first(b) ? 1 : first(a) < first(b) ? -1 : 0));
  if (sort === "last") {
    const when = (row) => row[1][1] ?? -1;
    rows.sort((a, b) => when(b) - when(a));
  }
  const solved = rows.filter(([, o]) => o[1] !== null).length;
  $("#problems-title").textContent =
    `${counted(rows.length, "problem")}, ${solved} solved without prefix`;
  const pages = Math.ceil(rows.length / PROBLEMS_A_PAGE);
  problemPage = Math.max(0, Math.min(problemPage, pages - 1));
  const start = problemPage * PROBLEMS_A_PAGE;
  $("#problems ol").replaceChildren(
    ...rows.slice(start, start + PROBLEMS_A_PAGE).map(([problem, o]) => {
      const [id, excerpt] = data.problems[problem];
      const isCurrent = String(problem) === current;
      return element("li", {}, element("button", {
        type: "button",
        "aria-pressed": isCurrent,
        onclick: () => {
          chosen.problem = isCurrent ? "" : String(problem);
          rolloutPage = 0;
          refresh();
        },
      },
      element("span", {}, visible(id)),
      element("span", { class: o[1] === null ? "wrong" : "right" }, firstSolved(o)),
      element("span", { class: "quiet line" }, visible(excerpt)),
      element("span", { class: "quiet all" }, beside(o))));
    }));
  showPager("#problems", problemPage, pages, (page) => {
    problemPage = page;
    showProblems();
  });
}

function showPager(section, page, pages, go) {
  const button = (words, to) => {
    const made = element("button", { type: "button", onclick: () => go(to) }, words);
    made.disabled = to < 0 || to >= pages;
    return made;
  };
  $(`${section} .pager`).replaceChildren(...(pages > 1 ? [
    button("← Previous", page - 1),
    element("span", { class: "quiet" }, `page ${page + 1} of ${pages}`),
    button("Next →", page + 1),
  ] : []));
}

// -- The list of rollouts ---------------------------------------------------------

function findRollouts() {
  const c = choices(), runs = runsChosen();
  const from = Number(c.from) || 0, to = Number(c.to) || Infinity;
  const outcome = {
    "": () => true,
    correct: (r) => r[REWARD] === 1,
    wrong: (r) => r[REWARD] !== 1,
    truncated: (r) => r[TRUNCATED] === 1,
  }[c.outcome];
  const words = new Map(); // problem -> whether it matches
  const isFound = (problem) => {
    if (!words.has(problem)) words.set(problem, matches(problem, c.find));
    return words.get(problem);
  };
  found = [];
  data.rollouts.forEach((r, place) => {
    if (runs.has(r[RUN])
      && (c.problem === "" || r[PROBLEM] === Number(c.problem))
      && (c.prefix === "" || (r[PREFIX] > 0) === (c.prefix === "with"))
      && r[STEP] >= from && r[STEP] <= to && outcome(r) && isFound(r[PROBLEM])) {
      found.push(place);
    }
  });
  const step = (place) => data.rollouts[place][STEP];
  if (c.order === "oldest") found.sort((a, b) => step(a) - step(b) || a - b);
  if (c.order === "newest") found.sort((a, b) => step(b) - step(a) || a - b);
}

const isRight = (r) => r[REWARD] === 1;

function verdict(r) {
  const words = isRight(r) ? "correct" : r[REWARD] > 0 ? `reward ${r[REWARD]}` : "wrong";
  return element("span", {
    class: isRight(r) ? "right" : "wrong", role: "img", title: words,
    "aria-label": words,
  }, isRight(r) ? "✓" : "✗");
}

const prefixWords = (r) =>
  r[PREFIX] ? `prefix ${percent(r[FRACTION])}` : "no prefix";

function showRollouts() {
  $("#rollouts-title").textContent = counted(found.length, "rollout");
  const pages = Math.ceil(found.length / ROLLOUTS_A_PAGE);
  rolloutPage = Math.max(0, Math.min(rolloutPage, pages - 1));
  const start = rolloutPage * ROLLOUTS_A_PAGE;
  $("#rollouts ol").replaceChildren(
    ...found.slice(start, start + ROLLOUTS_A_PAGE).map((place) => {
      const r = data.rollouts[place], run = data.index.runs[r[RUN]];
      return element("li", {}, element("button", {
        type: "button",
        "data-place": place,
        "aria-current": String(place) === chosen.rollout,
        onclick: () => openRollout(place),
      },
      verdict(r),
      element("span", {}, `step ${r[STEP]}, ${prefixWords(r)}`),
      element("span", {}, counted(r[LENGTH], "token")),
      element("span", { class: "quiet line" },
        visible(`${run.arm}, seed ${run.seed}, ${data.problems[r[PROBLEM]][0]}`))));
    }));
  showPager("#rollouts", rolloutPage, pages, (page) => {
    rolloutPage = page;
    showRollouts();
  });
}

function refresh() {
  findRollouts();
  showProblems();
  showRollouts();
  writeAddress();
}

// -- Events -----------------------------------------------------------------------

filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => {
  chosen.problem = "";
  setTimeout(() => { refresh(); showColours(); }); // once the fields are empty
});
document.addEventListener("input", (event) => {
  if (event.target.name === "colour") {
    showColours();
    writeAddress();
  } else {
    problemPage = rolloutPage = 0;
    refresh();
  }
});
for (const kind of ["mouseover", "click"]) {
  document.addEventListener(kind, (event) => {
    const i = event.target.closest?.("#tokens span")?.dataset.i;
    if (i !== undefined) showToken(Number(i));
  });
}

function move(by) {
  if (!found.length) return;
  const at = found.indexOf(Number(chosen.rollout || NaN));
  const next = at < 0 ? 0 : Math.max(0, Math.min(at + by, found.length - 1));
  const page = Math.floor(next / ROLLOUTS_A_PAGE);
  if (page !== rolloutPage || at < 0) {
    rolloutPage = page;
    showRollouts();
  }
  openRollout(found[next]);
  const button = $(`#rollouts [data-place="${found[next]}"]`);
  button.focus();
  button.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (!data || event.ctrlKey || event.metaKey || event.altKey) return;
  const { key, target } = event;
  const isText = target.matches("select, input:not([type=radio])");
  if (isText) {
    if (key === "Escape") target.blur();
    return;
  }
  if (target.id === "tokens" && (key === "ArrowLeft" || key === "ArrowRight")) {
    const next = shown.at + (key === "ArrowRight" ? 1 : -1);
    if (next >= 0 && next < shown.pieces.length) showToken(next);
  } else if (key === "j" || key === "k") {
    move(key === "j" ? 1 : -1);
  } else if (COLOURS[key - 1]) {
    filters.elements.colour.value = COLOURS[key - 1];
    showColours();
    writeAddress();
  } else if (key === "/") {
    filters.elements.find.focus();
  } else {
    return;
  }
  event.preventDefault();
});

// -- Start ------------------------------------------------------------------------

function addOptions(name, values) {
  for (const value of new Set(values)) {
    filters.elements[name].append(element("option", { value }, visible(String(value))));
  }
}

async function start() {
  const index = await load("index", 0);
  const [problems, outcomesOf, rollouts] = await Promise.all(
    ["problems", "outcomes", "rollouts"].map((name) => loadList(name, index.files[name])));
  data = { index, problems, outcomes: outcomesOf, rollouts };
  addOptions("arm", index.runs.map((run) => run.arm));
  addOptions("seed", index.runs.map((run) => run.seed));
  const total = (name) => index.runs.reduce((sum, run) => sum + run[name], 0);
  $("#summary").textContent = `${counted(rollouts.length, "rollout")} of ${
    counted(total("kept"), "kept one")}, out of ${
    counted(total("sampled"), "sampled one")} in ${counted(index.runs.length, "run")}.`
    + " When a problem was first solved is of all that were sampled.";
  readAddress();
  refresh();
  showColours();
  if (data.rollouts[chosen.rollout]) openRollout(Number(chosen.rollout));
}

start().catch((e) => { $("#summary").textContent = e.message; });
