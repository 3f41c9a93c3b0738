// The two calls of the page, and the errors that they end with.

// Kept here alone, so that it is gone with the page.
let bearer = "";

// Sets the bearer token for all further calls.
export function useToken(token) {
  bearer = token.trim();
}

// An answer that did not come, or not to its end: a gRPC code, a message, and details.
export class Refusal extends Error {
  constructor({ code, message, details }) {
    super(message);
    this.code = code;
    this.details = details ?? {};
  }
}

// What the server tells of itself.
export async function askServer(signal) {
  const response = await call("api/server", { signal });
  return response.json();
}

// The messages of an answer to `request`, as they come. Ends after `finish_info`.
export async function* generate(request, signal) {
  const response = await call("api/generate", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });
  for await (const line of lines(response.body)) {
    const message = JSON.parse(line);
    if (message.error) throw new Refusal(message.error);
    yield message;
    if (message.finish_info) return;
  }
  throw new Refusal({ code: "UNAVAILABLE", message: "the connection ended before the answer did" });
}

async function call(path, options) {
  const headers = { ...options.headers };
  if (bearer) headers.authorization = `Bearer ${bearer}`;
  const response = await reached(fetch(path, { ...options, headers, cache: "no-store" }));
  if (!response.ok) throw await refusal(response);
  return response;
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let begun = "";
  for (;;) {
    const { value, done } = await reached(reader.read());
    if (done) return;
    const parts = (begun + value).split("\n");
    begun = parts.pop();
    yield* parts;
  }
}

// Gives network errors the form of all others; an abort stays one.
async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal({ code: "UNAVAILABLE", message: `the server cannot be reached (${error.message})` });
  }
}

async function refusal(response) {
  const { error } = await response.json().catch(() => ({}));
  if (error) return new Refusal(error);
  const message = response.status === 413
    ? "the request is larger than the server reads: shorten the prompt"
    : response.statusText;
  return new Refusal({ code: `HTTP ${response.status}`, message });
}
