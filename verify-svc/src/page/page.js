// The form, and what becomes of it: an answer, a cancellation, or an error.

import { addTokens, clearText, name } from "./answer.js";
import { Refusal, generate, useToken } from "./api.js";
import { addPrompt, addRound, clearRounds, countTokens, summary } from "./rounds.js";
import { follow, look } from "./server.js";

const form = document.getElementById("form");
const [send, cancel, status] = ["send", "cancel", "status"].map((id) => document.getElementById(id));
const panel = document.getElementById("error");
let running = null;

// Where an error's field is entered, if its name differs.
const INPUTS = {
  "speculation.policy": "policy",
  "speculation.target_agreement": "target_agreement",
};

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) run();
});
cancel.addEventListener("click", () => running?.abort());
form.elements.token.addEventListener("change", async () => {
  useToken(form.elements.token.value);
  hearServer(await look());
});

async function run() {
  running = new AbortController();
  [send.disabled, cancel.disabled] = [true, false];
  status.textContent = "generating …";
  [clearError, clearText, clearRounds].forEach((clear) => clear());
  useToken(form.elements.token.value);
  try {
    for await (const message of generate(request(), running.signal)) take(message);
  } catch (error) {
    if (running.signal.aborted) {
      status.textContent = `cancelled: ${summary()}`;
    } else {
      status.textContent = "failed";
      showError(error);
    }
  } finally {
    running = null;
    [send.disabled, cancel.disabled] = [false, true];
  }
}

function take(message) {
  if (message.prompt_info) addPrompt(message.prompt_info);
  if (message.round) addRound(message.round);
  if (message.tokens) {
    addTokens(message.tokens);
    countTokens(message.tokens.token_ids.length);
  }
  if (message.finish_info) {
    status.textContent = `finished (${name(message.finish_info.finish_reason)}): ${summary()}`;
  }
}

// What was left empty is left out, so that the server's defaults hold. What is no number goes as it
// is: the server says what it wants there.
function request() {
  const entered = (field) => form.elements[field].value.trim();
  const number = (field) => {
    const text = entered(field);
    if (text === "") return undefined;
    return Number.isFinite(Number(text)) ? Number(text) : text;
  };
  return {
    text: form.elements.text.value,
    max_new_tokens: number("max_new_tokens"),
    temperature: number("temperature"),
    seed: entered("seed") || undefined,
    speculation: {
      policy: entered("policy"),
      target_agreement: number("target_agreement"),
    },
  };
}

function showError(error) {
  const { code, message, details } = error instanceof Refusal
    ? error
    : { code: "the page failed", message: String(error), details: {} };
  askForToken(code);
  const violations = [...(details.field_violations ?? []), ...(details.precondition_violations ?? [])];
  const hints = violations
    .map(({ field, description }) => `${field}: ${description}`)
    .filter((hint) => hint !== message);
  if (details.retry_after_seconds !== undefined) hints.push(`Try again in ${details.retry_after_seconds} s.`);
  const [title, words, list] = panel.children;
  title.textContent = code;
  words.textContent = message;
  list.replaceChildren(...hints.map((hint) => {
    const item = document.createElement("li");
    item.textContent = hint;
    return item;
  }));
  panel.hidden = false;
  violations.forEach(({ field }) => mark(INPUTS[field] ?? field));
}

// Leads to the input that is wrong.
function mark(field) {
  const input = form.elements.namedItem(field);
  if (!(input instanceof HTMLElement)) return;
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-errormessage", "error");
  input.focus();
}

function clearError() {
  panel.hidden = true;
  form.querySelectorAll("[aria-invalid]").forEach((input) => {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-errormessage");
  });
}

function askForToken(code) {
  if (code === "UNAUTHENTICATED") document.getElementById("token-row").hidden = false;
}

function hearServer(refusal) {
  if (refusal) askForToken(refusal.code);
}

follow(hearServer);
