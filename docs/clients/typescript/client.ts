// A complete client of verify-svc: streams, cancels, keeps a deadline, goes on after a failure.

import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";
import { readFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { LOADING, details } from "./errors";
import type { FinishInfo__Output } from "./generated/dssd/v1/FinishInfo";
import type { GenerateRequest } from "./generated/dssd/v1/GenerateRequest";
import type { GenerateStreamResponse__Output } from "./generated/dssd/v1/GenerateStreamResponse";
import type { GenerationClient } from "./generated/dssd/v1/Generation";
import type { PromptInfo__Output } from "./generated/dssd/v1/PromptInfo";
import type { RoundTrace__Output } from "./generated/dssd/v1/RoundTrace";
import type { Tokens__Output } from "./generated/dssd/v1/Tokens";
import type { ProtoGrpcType } from "./generated/generation";

const PROTO = path.join(__dirname, "../../../../proto/proto");
// Failures in a row, without a new token between them, after which a generation is given up.
const MOST_FAILURES = 8;
const FIRST_PAUSE = 100;
const LONGEST_PAUSE = 2000;
// ABORTED: what came was not read in time.
const PASSING = [grpc.status.UNAVAILABLE, grpc.status.RESOURCE_EXHAUSTED, grpc.status.ABORTED];
const CHANNEL_OPTIONS: grpc.ChannelOptions = {
  "grpc.max_receive_message_length": 16 << 20,
  // Finds out that a server vanished without a word.
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.max_reconnect_backoff_ms": 2_000,
  // A name with several addresses: all are used, by `dns:///NAME:PORT`.
  "grpc.service_config": JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
};

const USAGE = `client.js [--endpoint HOST:PORT] [--tls-ca FILE] [--token-file FILE] [--max-new-tokens N]
  [--temperature T] [--top-p P] [--seed N] [--ignore-eos] [--policy POLICY] [--deadline SECONDS]
  [--cancel-after TOKENS] [--trace] PROMPT`;

const note = (text: string) => console.error(text);

function parse() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      endpoint: { type: "string", default: "127.0.0.1:50051" },
      "tls-ca": { type: "string" },
      "token-file": { type: "string" },
      "max-new-tokens": { type: "string", default: "128" },
      temperature: { type: "string", default: "0" },
      "top-p": { type: "string" },
      seed: { type: "string" },
      "ignore-eos": { type: "boolean", default: false },
      policy: { type: "string", default: "" },
      deadline: { type: "string", default: "60" },
      "cancel-after": { type: "string" },
      trace: { type: "boolean", default: false },
    },
  });
  const [prompt] = positionals;
  if (prompt === undefined || positionals.length > 1) {
    note(`usage: ${USAGE}`);
    process.exit(2);
  }
  return { ...values, prompt };
}

type Arguments = ReturnType<typeof parse>;

// What has come of one generation, and what another attempt needs to go on.
class Generation {
  tokenIds: number[] = [];
  info?: PromptInfo__Output;
  finish?: FinishInfo__Output;

  constructor(private readonly first: GenerateRequest) {}

  // The request of the next attempt.
  request(): GenerateRequest {
    if (!this.info) return this.first;
    const { sampling, numerics_id } = this.info;
    return { ...this.first, resume: { token_ids: this.tokenIds, seed: sampling?.seed, numerics_id } };
  }

  // Appends new tokens; a gap would spoil the text.
  take(tokens: Tokens__Output) {
    if (tokens.first_index !== this.tokenIds.length) {
      throw new Error(`token ${tokens.first_index} came, not ${this.tokenIds.length}`);
    }
    this.tokenIds.push(...tokens.token_ids);
  }

  // Whether all tokens came: where only `finish_info` was lost, there is nothing to resume.
  isComplete(): boolean {
    const last = this.tokenIds.at(-1);
    const sampling = this.info?.sampling;
    if (this.finish) return true;
    if (!sampling || last === undefined) return false;
    return this.tokenIds.length >= sampling.max_new_tokens || sampling.stop_token_ids.includes(last);
  }
}

// How each token of a round came; those behind a refused one were not judged.
function showRound(round: RoundTrace__Output) {
  for (const token of round.drafted) {
    const fate = token.accepted ? "accepted" : "refused";
    note(`${token.token_id} ${fate} exit=${token.exit_head} entropy=${token.entropy.toFixed(4)}`);
  }
  note(`${round.correction} ${round.drafted.length > 0 ? "corrected" : `plain ${round.plain_reason}`}`);
}

function showFinish(finish: FinishInfo__Output) {
  const drafts = finish.speculative_decoding;
  note(
    `${finish.finish_reason} generated=${finish.generated_token_count} resumed=${finish.resumed_token_count}` +
      ` drafted=${drafts?.num_draft_tokens ?? 0} accepted=${drafts?.num_accepted_tokens ?? 0}`,
  );
}

function showError(error: grpc.ServiceError) {
  note(`${grpc.status[error.code]}: ${error.details}`);
  const { violations, preconditions, retryDelay } = details(error);
  for (const { field, description } of violations) note(`  BadRequest: ${field}: ${description}`);
  for (const { subject, description } of preconditions) note(`  PreconditionFailure: ${subject}: ${description}`);
  if (retryDelay !== undefined) note(`  RetryInfo: ${retryDelay} ms`);
}

function isServiceError(error: unknown): error is grpc.ServiceError {
  return error instanceof Error && "code" in error && "metadata" in error;
}

function show(message: GenerateStreamResponse__Output, generation: Generation) {
  switch (message.event) {
    case "prompt_info":
      generation.info = message.prompt_info!;
      break;
    case "tokens":
      generation.take(message.tokens!);
      process.stdout.write(message.tokens!.text);
      break;
    case "round":
      showRound(message.round!);
      break;
    case "finish_info":
      generation.finish = message.finish_info!;
  }
}

// Reads one stream to its end. False: it was cancelled.
async function attempt(
  client: GenerationClient,
  generation: Generation,
  asked: Arguments,
  deadline: number,
  again: boolean,
): Promise<boolean> {
  // A call after a failure waits for the connection; the first one tells at once of a wrong address.
  const metadata = new grpc.Metadata({ waitForReady: again });
  if (asked["token-file"]) metadata.set("authorization", `Bearer ${token(asked["token-file"])}`);
  const call = client.GenerateStream(generation.request(), metadata, { deadline });
  for await (const message of call) {
    show(message, generation);
    if (asked["cancel-after"] && generation.tokenIds.length >= Number(asked["cancel-after"])) {
      call.cancel();
      return false;
    }
  }
  return true;
}

// Attempts until the generation is complete or cancelled. All attempts share one deadline.
async function generate(client: GenerationClient, generation: Generation, asked: Arguments): Promise<boolean> {
  const deadline = Date.now() + Number(asked.deadline) * 1000;
  for (let failures = 0; ; ) {
    const before = generation.tokenIds.length;
    try {
      return await attempt(client, generation, asked, deadline, failures > 0);
    } catch (error) {
      if (generation.isComplete()) return true;
      failures = generation.tokenIds.length > before ? 1 : failures + 1;
      if (!isServiceError(error) || !PASSING.includes(error.code) || failures > MOST_FAILURES) throw error;
      // What the server says, else twice as long after each failure.
      const pause = details(error).retryDelay ?? Math.min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE);
      showError(error);
      note(`again in ${(pause / 1000).toFixed(3)} s with ${generation.tokenIds.length} tokens`);
      await sleep(Math.min(pause, Math.max(deadline - Date.now(), 0)));
    }
  }
}

function token(file: string): string {
  const lines = readFileSync(file, "utf8").split("\n");
  return lines.find((line) => line && !line.startsWith("#")) ?? "";
}

function connect(asked: Arguments): GenerationClient {
  const definition = loader.loadSync("dssd/v1/generation.proto", { ...LOADING, includeDirs: [PROTO] });
  const { Generation } = (grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType).dssd.v1;
  const ca = asked["tls-ca"];
  const credentials = ca ? grpc.credentials.createSsl(readFileSync(ca)) : grpc.credentials.createInsecure();
  return new Generation(asked.endpoint, credentials, CHANNEL_OPTIONS);
}

function request(asked: Arguments): GenerateRequest {
  // A field that is left out is unset, which is another thing than zero.
  return {
    text: asked.prompt,
    max_new_tokens: Number(asked["max-new-tokens"]),
    temperature: Number(asked.temperature),
    ...(asked["top-p"] && { top_p: Number(asked["top-p"]) }),
    ...(asked.seed && { seed: asked.seed }),
    ignore_eos: asked["ignore-eos"],
    speculation: { policy: asked.policy, trace: asked.trace },
  };
}

async function main(asked: Arguments) {
  const client = connect(asked);
  const generation = new Generation(request(asked));
  try {
    const finished = await generate(client, generation, asked);
    process.stdout.write("\n");
    if (!finished) note(`cancelled after ${generation.tokenIds.length} tokens`);
    else if (!generation.isComplete()) {
      note(`the stream ended before the answer, after ${generation.tokenIds.length} tokens`);
      process.exitCode = 1;
    } else if (generation.finish) showFinish(generation.finish);
  } catch (error) {
    process.stdout.write("\n");
    if (!isServiceError(error)) throw error;
    showError(error);
    process.exitCode = 1;
  } finally {
    client.close();
  }
}

main(parse());
