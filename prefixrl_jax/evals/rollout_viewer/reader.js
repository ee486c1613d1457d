// Shows one rollout, token by token: the part of viewer.js that reads a page.
"use strict";

let shown = null; // the rollout that is open: {place, pieces, ...}
const COLOURS = ["none", "logprob", "advantage", "moved"];
// What has the full colour: nats below certainty, and nats of change.
const UNLIKELY = 4, MOVED = 2;

async function openRollout(place) {
  chosen.rollout = String(place);
  writeAddress();
  for (const button of document.querySelectorAll("#rollouts [data-place]")) {
    button.setAttribute("aria-current", button.dataset.place === chosen.rollout);
  }
  let page;
  try {
    page = await load("page", data.rollouts[place][PAGE]);
  } catch (e) {
    $("#content").replaceChildren(element("p", { class: "wrong" }, e.message));
    return;
  }
  if (chosen.rollout !== String(place)) return; // another one has been opened
  const r = data.rollouts[place];
  const [pieces, logprobs, advantages, finals, omitted] = page.rollouts[place];
  shown = { place, pieces, logprobs, advantages, finals, at: -1 };
  const run = data.index.runs[r[RUN]];
  const group = `${r[RUN]}/${r[STEP]}/${r[GROUP]}`;
  const prefix = page.prefixes[group];
  const prompt = page.prompts[group] ?? page.prompts[r[PROBLEM]]; // or without hint
  const tokens = element("div", {
    class: "tokens", id: "tokens", tabindex: "0", role: "group",
    "aria-label": "Completion, token by token: left and right arrow keys",
  }, ...pieces.map((piece, i) => element("span", { "data-i": i }, pieceText(piece))));
  $("#content").replaceChildren(
    element("p", {}, verdict(r),
      ` ${visible(run.arm)}, seed ${run.seed}, step ${r[STEP]}: reward ${r[REWARD]},`
      + ` ${counted(r[LENGTH], "token")}${r[TRUNCATED] ? " (truncated)" : ""},`
      + ` mean log-probability ${r[LOGPROB] ?? "–"},`
      + ` ${r[ADVANTAGE] === null ? "not learned from"
        : `mean advantage ${signed(r[ADVANTAGE])}`}`),
    lanes(place),
    element("h3", {}, `Problem ${visible(data.problems[r[PROBLEM]][0])}`),
    element("pre", { class: "prompt" }, visible(prompt)),
    ...(prefix ? [
      element("h3", {}, `Prefix, given and not learned from: ${
        counted(r[PREFIX], "token")}, ${percent(r[FRACTION])} of the trace`),
      element("pre", { class: "prefix" }, visible(prefix)),
    ] : []),
    element("h3", {}, r[PREFIX]
      ? `Completion of the policy${prefix ? "" : ", given a hint in its prompt"}`
      : "Completion of the policy, without prefix"),
    tokens,
    omitted ? element("p", { class: "quiet" }, `… and ${counted(omitted, "token")} more: see the Parquet file.`) : "",
  );
  showColours();
  const isBelow = matchMedia("(max-width: 46rem)").matches;
  if (isBelow) $("#reader").scrollIntoView();
}

// The completions of the same group that are shown.
function lanes(place) {
  const key = (r) => [RUN, PROBLEM, STEP, GROUP].map((i) => r[i]).join();
  const own = key(data.rollouts[place]), group = [];
  let first = place;
  while (first > 0 && key(data.rollouts[first - 1]) === own) first -= 1;
  for (let i = first; i < data.rollouts.length && key(data.rollouts[i]) === own; i++) {
    group.push(element("button", {
      type: "button", "aria-pressed": i === place, onclick: () => openRollout(i),
      "aria-label": `completion ${data.rollouts[i][LANE] + 1} of its group`,
    }, verdict(data.rollouts[i]), ` ${data.rollouts[i][LANE] + 1}`));
  }
  return element("div", { class: "lanes", role: "group", "aria-label": "Its group" },
    ...group);
}

const nth = (numbers, i) => {
  const value = Array.isArray(numbers) ? numbers[i] : numbers;
  return value === null || value === undefined ? null : value / 1000;
};

// Of a token: its colour, and how much of it, from 0 to 1.
const PAINT = {
  none: () => null,
  logprob: (i) => {
    const value = nth(shown.logprobs, i);
    return value === null ? null : ["unlikely", -value / UNLIKELY];
  },
  advantage: (i) => {
    const value = nth(shown.advantages, i);
    const scale = data.index.advantage || 1;
    return value ? [value > 0 ? "up" : "down", Math.abs(value) / scale] : null;
  },
  moved: (i) => {
    const value = change(i);
    return value ? [value > 0 ? "up" : "down", Math.abs(value) / MOVED] : null;
  },
};

function change(i) {
  const after = nth(shown.finals, i), before = nth(shown.logprobs, i);
  return after === null || before === null ? null : after - before;
}

const LEGENDS = {
  none: () => "",
  logprob: () => ["probability at sampling: ", ["unlikely", 0, "1"], ["unlikely", .35, ".25"],
    ["unlikely", 1, `${Math.exp(-UNLIKELY).toFixed(2)} or less`]],
  advantage: () => shown && shown.advantages === null ? "this completion was not learned from" : [
    "advantage: ", ["down", 1, `${signed(-(data.index.advantage || 1))} or less`], ["up", 0, "0"],
    ["up", 1, `${signed(data.index.advantage || 1)} or more`]],
  moved: () => shown && shown.finals === null
    ? "not rescored with the trained policy (a sample of the rollouts is: --stage=rescore)" : [
      "log-probability under the trained policy, against that at sampling: ",
      ["down", 1, `${signed(-MOVED, 0)} or less`], ["up", 0, "0"],
      ["up", 1, `${signed(MOVED, 0)} or more`]],
};

const paint = (colour, amount) =>
  `color-mix(in srgb, var(--${colour}) ${Math.round(55 * Math.min(1, amount))}%, transparent)`;

function showColours() {
  const { colour } = choices();
  const parts = LEGENDS[colour]();
  $("#legend").replaceChildren(...(typeof parts === "string" ? [parts] : parts.map((part) => {
    if (typeof part === "string") return part;
    const made = element("span", { class: "scale" }, part[2]);
    made.style.backgroundColor = paint(part[0], part[1]);
    return made;
  })));
  if (!shown) return;
  for (const token of document.querySelectorAll("#tokens span")) {
    const painted = PAINT[colour](Number(token.dataset.i));
    token.style.backgroundColor = painted ? paint(...painted) : "";
    // Not by colour alone, where there is enough of it to be seen.
    const hasSign = painted && painted[0] !== "unlikely" && painted[1] > .05;
    token.className = hasSign ? painted[0] : "";
  }
  showToken(shown.at);
}

function showToken(i) {
  shown.at = i;
  for (const token of document.querySelectorAll("#tokens .at")) token.classList.remove("at");
  if (i < 0) {
    $("#token").textContent = "";
    return;
  }
  $(`#tokens [data-i="${i}"]`).classList.add("at");
  const logprob = nth(shown.logprobs, i), advantage = nth(shown.advantages, i);
  const facts = [`token ${i + 1}: ${JSON.stringify(visible(shown.pieces[i]))}`];
  if (logprob !== null) {
    facts.push(`log-probability ${logprob.toFixed(3)} (${Math.exp(logprob).toPrecision(2)})`);
  }
  if (advantage !== null) facts.push(`advantage ${signed(advantage, 3)}`);
  if (change(i) !== null) facts.push(`moved by ${signed(change(i), 3)}`);
  $("#token").textContent = facts.join(", ");
}
