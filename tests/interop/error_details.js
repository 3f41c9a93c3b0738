"use strict";
// The rich error model: `google.rpc.Status` in the trailer `grpc-status-details-bin`.

const protobuf = require("protobufjs");

const { root } = protobuf.parse(`
  syntax = "proto3";
  package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message FieldViolation { string field = 1; string description = 2; }
  message BadRequest { repeated FieldViolation field_violations = 1; }
`);
const Status = root.lookupType("google.rpc.Status");
const BadRequest = root.lookupType("google.rpc.BadRequest");

// The field violations that a failed call carries.
function badRequest(error) {
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  if (!bytes) throw new Error("the error carries no details");
  const details = Status.decode(bytes).details;
  const found = details.find((detail) => detail.typeUrl === "type.googleapis.com/google.rpc.BadRequest");
  if (!found) throw new Error("the error carries no BadRequest");
  return BadRequest.decode(found.value).fieldViolations;
}

module.exports = { badRequest };
