// The strip of draft lengths, and the figures of one answer.

import { name } from "./answer.js";

const strip = document.getElementById("rounds");
const fields = ["speed", "acceptance", "yield", "first", "count", "prompt-count", "policy", "seed"];
let tally;

// Begins the account of a new answer.
export function clearRounds() {
  tally = { sent: performance.now(), first: null, last: null, tokens: 0, late: 0, rounds: 0, drafted: 0, accepted: 0 };
  strip.replaceChildren();
  strip.ariaLabel = "No rounds yet";
  fields.forEach((field) => show(field, "–"));
}

// What was resolved before the first token.
export function addPrompt({ prompt_token_count, sampling, speculation }) {
  show("prompt-count", prompt_token_count);
  show("policy", speculation.policy);
  show("seed", sampling.temperature > 0 ? sampling.seed : `${sampling.seed} (greedy: unused)`);
}

// One round, as a column: the first drafted token at the bottom.
export function addRound({ round, drafted, stop_reason, plain_reason }) {
  const accepted = drafted.filter((token) => token.accepted).length;
  const column = document.createElement("span");
  column.className = "round";
  column.title = drafted.length > 0
    ? `round ${round}: ${accepted} of ${drafted.length} drafted tokens accepted; the draft ended by ${name(stop_reason)}`
    : `round ${round}: no draft (${name(plain_reason)})`;
  const boxes = drafted.length > 0
    ? drafted.map((token) => (token.accepted ? "taken" : "refused"))
    : ["none"];
  column.append(...boxes.map(box));
  strip.append(column);
  tally.rounds += 1;
  tally.drafted += drafted.length;
  tally.accepted += accepted;
}

function box(kind) {
  const box = document.createElement("i");
  box.className = kind;
  return box;
}

// Counts newly committed tokens, and shows the figures so far.
export function countTokens(count) {
  const now = performance.now();
  if (tally.first === null) {
    tally.first = now;
  } else {
    tally.late += count;
  }
  tally.last = now;
  tally.tokens += count;
  showFigures();
}

// The whole account in words.
export function summary() {
  const { tokens, rounds, drafted, accepted } = tally;
  return `${tokens} tokens in ${rounds} rounds; ${accepted} of ${drafted} drafted tokens accepted`;
}

function showFigures() {
  const seconds = (tally.last - tally.first) / 1000;
  show("speed", seconds > 0 ? (tally.late / seconds).toFixed(1) : "–");
  show("acceptance", tally.drafted > 0
    ? `${Math.round((100 * tally.accepted) / tally.drafted)} % (${tally.accepted} of ${tally.drafted})`
    : "nothing drafted");
  // The first token comes from the prompt's pass.
  show("yield", tally.rounds > 0 ? ((tally.tokens - 1) / tally.rounds).toFixed(2) : "–");
  show("first", `${((tally.first - tally.sent) / 1000).toFixed(2)} s`);
  show("count", tally.tokens);
  strip.ariaLabel = summary();
}

function show(field, value) {
  document.getElementById(field).textContent = value;
}
