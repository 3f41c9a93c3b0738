// The rich error model: `google.rpc.Status` in the trailer `grpc-status-details-bin`.

import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";
import path from "node:path";
import type { ProtoGrpcType } from "./generated/errors";

export const LOADING: loader.Options = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true };

const file = path.join(__dirname, "..", "errors.proto");
const { rpc } = (grpc.loadPackageDefinition(loader.loadSync(file, LOADING)) as unknown as ProtoGrpcType).google;

export interface Details {
  violations: { field: string; description: string }[];
  preconditions: { subject: string; description: string }[];
  // Milliseconds after which to try again.
  retryDelay?: number;
}

// The details that a failed call carries.
export function details(error: grpc.ServiceError): Details {
  const found: Details = { violations: [], preconditions: [] };
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  const packed = bytes ? rpc.Status.deserialize(bytes as Buffer).details : [];
  for (const { type_url, value } of packed) {
    switch (type_url) {
      case "type.googleapis.com/google.rpc.BadRequest":
        found.violations.push(...rpc.BadRequest.deserialize(value).field_violations);
        break;
      case "type.googleapis.com/google.rpc.PreconditionFailure":
        found.preconditions.push(...rpc.PreconditionFailure.deserialize(value).violations);
        break;
      case "type.googleapis.com/google.rpc.RetryInfo": {
        const delay = rpc.RetryInfo.deserialize(value).retry_delay;
        if (delay) found.retryDelay = Number(delay.seconds) * 1000 + delay.nanos / 1e6;
      }
    }
  }
  return found;
}
