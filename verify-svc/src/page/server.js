// The server's own state: model, drafters, load. It is asked again and again while the page is seen.

import { Refusal, askServer } from "./api.js";
import { name } from "./answer.js";

const PAUSE_MS = 2000;
const PATIENCE_MS = 10000;

// Shows the state for as long as the page lives; `refused` hears of errors, and of null when there is none.
export async function follow(refused) {
  for (;;) {
    if (!document.hidden) refused(await look());
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

// Asks once; returns the error, if there is one.
export async function look() {
  try {
    show(await askServer(AbortSignal.timeout(PATIENCE_MS)));
    return null;
  } catch (error) {
    const told = error instanceof Refusal ? error : new Refusal({ code: "UNAVAILABLE", message: String(error) });
    showDrafters([], `not known: ${told.message}`);
    return told;
  }
}

function show({ model, version, limits, default_policy, drafters, load }) {
  set("model", `${model.model_name} · ${model.architecture} · ${model.layer_count} layers · ${model.dtype} on ${model.device}`);
  set("running", `${load.running} of ${limits.max_sequences}`);
  set("waiting", load.waiting);
  set("kv", load.kv_blocks > 0 ? `${Math.round(100 * (1 - load.free_kv_blocks / load.kv_blocks))} %` : "–");
  set("version", version);
  hint("max_new_tokens", limits.default_max_new_tokens);
  hint("policy", default_policy);
  showDrafters(drafters, "none: every token is decoded plainly");
}

function showDrafters(drafters, otherwise) {
  const items = drafters.map(item);
  if (items.length === 0) {
    const none = document.createElement("li");
    none.className = "hint";
    none.textContent = otherwise;
    items.push(none);
  }
  document.getElementById("drafters").replaceChildren(...items);
}

function item({ address, state, reason, load }) {
  const ready = state === "DRAFTER_STATE_READY";
  const lines = [`${address} – ${name(state)}`];
  if (reason && !ready) lines.push(reason);
  lines.push(`drafts for ${load.sequences}, step ${(load.step_us / 1000).toFixed(1)} ms, ${load.free_kv_blocks} KV blocks free`);
  const drafter = document.createElement("li");
  drafter.className = ready ? "drafter ready" : "drafter";
  drafter.append(...lines.map(paragraph));
  return drafter;
}

function paragraph(words) {
  const paragraph = document.createElement("p");
  paragraph.textContent = words;
  return paragraph;
}

function set(id, value) {
  document.getElementById(id).textContent = value;
}

function hint(field, value) {
  document.getElementById("form").elements[field].placeholder = `${value}`;
}
