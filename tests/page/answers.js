"use strict";
// Answers of a server that is not at hand: full, cut off, guarded, or with hostile text.

function told(status, error) {
  return (route) => route.fulfill({ status, contentType: "application/json", body: JSON.stringify({ error }) });
}

function streamed(...messages) {
  const body = messages.map((message) => `${JSON.stringify(message)}\n`).join("");
  return (route) => route.fulfill({ status: 200, contentType: "application/x-ndjson", body });
}

const plain = { text: "<img src=x onerror=\"document.title='taken'\">", kind: "plain", round: null, plain_reason: null };
const refused = { token_id: 3, text: "<b>\n</b>", exit_head: 1, entropy: 0.5, accepted: false };
const correction = { text: "", kind: "correction", round: 0, refused };
const tokens = { first_index: 0, token_ids: [1, 2], text: plain.text, pieces: [plain, correction] };

exports.noRoom = told(429, {
  code: "RESOURCE_EXHAUSTED", message: "no room: all sequences run", details: { retry_after_seconds: 1.5 },
});
exports.unauthenticated = told(401, { code: "UNAUTHENTICATED", message: "a token is needed", details: {} });
exports.cutOff = streamed({ tokens });
exports.markup = streamed({ tokens }, { finish_info: { finish_reason: "FINISH_REASON_STOP" } });
