"use strict";
// What a Node client of verify-svc relies on. Argument: the server's address.

const assert = require("node:assert/strict");
const grpc = require("@grpc/grpc-js");
const { reflect } = require("./reflection.js");
const { badRequest } = require("./error_details.js");

const GENERATION = "dssd.v1.Generation";
const HEALTH = "grpc.health.v1.Health";
const PROMPT = "Once upon a time there was a little";

function deadline() {
  return { deadline: Date.now() + 60_000 };
}

// Calls a unary method.
function unary(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, deadline(), (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

// Reads a stream to its end; `onMessage` sees each message. Returns the messages and the error, if any.
function readAll(stream, onMessage = () => {}) {
  const messages = [];
  return new Promise((resolve) => {
    stream.on("data", (message) => {
      messages.push(message);
      onMessage(message);
    });
    stream.on("error", (error) => resolve({ messages, error }));
    stream.on("end", () => resolve({ messages, error: null }));
  });
}

async function listsServices({ names }) {
  for (const name of [GENERATION, HEALTH]) assert.ok(names.includes(name), `${name} is not in ${names}`);
}

async function isHealthy({ health }) {
  for (const service of ["", GENERATION]) {
    assert.equal((await unary(health, "Check", { service })).status, "SERVING");
  }
}

async function streamsAGeneration({ generation }) {
  const request = { text: PROMPT, max_new_tokens: 40 };
  const { messages, error } = await readAll(generation.GenerateStream(request, deadline()));
  assert.equal(error, null);
  assert.equal(messages.at(0).event, "prompt_info");
  assert.equal(messages.at(-1).event, "finish_info");
  const parts = messages.slice(1, -1).map((message) => message.tokens);
  const text = parts.map((part) => part.text).join("");
  const ids = parts.flatMap((part) => part.token_ids);
  assert.notEqual(text.trim(), "");
  assert.equal(ids.length, messages.at(-1).finish_info.generated_token_count);
  const whole = await unary(generation, "Generate", request);
  assert.deepEqual([whole.text, whole.token_ids], [text, ids]);
}

async function cancelsAGeneration({ generation }) {
  const request = { text: PROMPT, max_new_tokens: 600, ignore_eos: true };
  const stream = generation.GenerateStream(request, deadline());
  const { messages, error } = await readAll(stream, (message) => message.event === "tokens" && stream.cancel());
  assert.equal(error?.code, grpc.status.CANCELLED);
  assert.ok(!messages.some((message) => message.event === "finish_info"));
}

async function namesTheBadField({ generation }) {
  const request = { text: PROMPT, max_new_tokens: 4, top_p: 1.5 };
  const error = await unary(generation, "Generate", request).then(
    () => assert.fail("the call was expected to fail"),
    (error) => error,
  );
  assert.equal(error.code, grpc.status.INVALID_ARGUMENT);
  assert.deepEqual(badRequest(error).map((violation) => violation.field), ["top_p"]);
}

async function main(address) {
  const server = await reflect(address);
  const clients = {
    names: server.names,
    generation: await server.connect(GENERATION),
    health: await server.connect(HEALTH),
  };
  const checks = [listsServices, isHealthy, streamsAGeneration, cancelsAGeneration, namesTheBadField];
  for (const check of checks) {
    await check(clients);
    console.log(`ok: node ${check.name}`);
  }
  for (const client of [server, clients.generation, clients.health]) client.close();
}

main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exit(1);
});
