// The text of an answer, token by token. All of it is model output, so it becomes text nodes only.

const text = document.getElementById("text");
const tip = document.getElementById("tip");
const pieces = new WeakMap();

// Removes the text of the last answer.
export function clearText() {
  hideTip();
  text.replaceChildren();
  text.tabIndex = 0;
}

// Adds newly committed tokens.
export function addTokens({ first_index, token_ids, pieces: added }) {
  added.forEach((piece, at) => {
    const token = document.createElement("span");
    token.className = `token ${piece.kind}`;
    token.textContent = piece.text;
    token.tabIndex = -1;
    pieces.set(token, describe(piece, first_index + at, token_ids[at]));
    text.append(token);
  });
}

function describe(piece, index, id) {
  const place = piece.round === null || piece.round === undefined
    ? "from the prompt's pass"
    : `round ${piece.round}`;
  return [...origin(piece), `token ${index}, id ${id}, ${place}`].join("\n");
}

function origin(piece) {
  switch (piece.kind) {
    case "accepted":
      return ["accepted draft", exit(piece)];
    case "correction":
      return piece.refused
        ? [`correction: ${quoted(piece.refused.text)} was drafted`, exit(piece.refused)]
        : ["the whole model's token after a draft that was right to its end"];
    default:
      return [piece.plain_reason ? `plain: ${name(piece.plain_reason)}` : "plain"];
  }
}

function exit({ exit_head, entropy }) {
  return `exit head ${exit_head}, entropy ${entropy.toFixed(3)} nats`;
}

// Line ends and blanks must be seen.
function quoted(words) {
  return `“${words.replaceAll("\n", "⏎").replaceAll("\t", "⇥")}”`;
}

// The readable part of an enumeration's value.
export function name(value) {
  return value
    .replace(/^(PLAIN_REASON|DRAFT_STOP_REASON|FINISH_REASON|DRAFTER_STATE)_/, "")
    .toLowerCase()
    .replaceAll("_", " ");
}

function showTip(token) {
  tip.textContent = pieces.get(token);
  tip.hidden = false;
  token.setAttribute("aria-describedby", "tip");
  const [box] = token.getClientRects();
  const below = box.bottom + tip.offsetHeight + 8 < window.innerHeight;
  const left = Math.min(box.left, window.innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${below ? box.bottom + 6 : Math.max(8, box.top - tip.offsetHeight - 6)}px`;
}

function hideTip() {
  tip.hidden = true;
  text.querySelector("[aria-describedby]")?.removeAttribute("aria-describedby");
}

function tokenOf(event) {
  return pieces.has(event.target) ? event.target : null;
}

function moveTo(token) {
  if (!token) return;
  token.focus();
  token.scrollIntoView({ block: "nearest" });
  showTip(token);
}

// One stop of the tab key for all tokens; arrows go on from there.
text.addEventListener("keydown", (event) => {
  const here = pieces.has(document.activeElement) ? document.activeElement : null;
  const goal = {
    ArrowRight: () => (here ? here.nextElementSibling : text.firstElementChild),
    ArrowLeft: () => here?.previousElementSibling,
    Home: () => text.firstElementChild,
    End: () => text.lastElementChild,
  }[event.key];
  if (goal) {
    event.preventDefault();
    hideTip();
    moveTo(goal() ?? here);
  } else if (event.key === "Escape") {
    hideTip();
  }
});

text.addEventListener("mouseover", (event) => {
  const token = tokenOf(event);
  hideTip();
  if (token) showTip(token);
});
text.addEventListener("mouseleave", hideTip);
text.addEventListener("focusin", (event) => {
  const token = tokenOf(event);
  if (!token) return;
  hideTip();
  showTip(token);
});
text.addEventListener("focusout", hideTip);
window.addEventListener("scroll", hideTip, { passive: true });
