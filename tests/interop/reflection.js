"use strict";
// gRPC clients made of nothing but a server's reflection (version v1).

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const { FileDescriptorProto } = require("protobufjs/ext/descriptor");
const path = require("node:path");

const OPTIONS = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true };

// The one .proto file that a client must have beforehand: that of reflection itself.
function reflectionService() {
  const folder = path.join(path.dirname(require.resolve("@grpc/reflection/package.json")), "build/proto");
  const file = "grpc/reflection/v1/reflection.proto";
  const definition = loader.loadSync(file, { ...OPTIONS, includeDirs: [folder] });
  return grpc.loadPackageDefinition(definition).grpc.reflection.v1.ServerReflection;
}

// Asks one question, such as { list_services: "" }.
function ask(client, question) {
  return new Promise((resolve, reject) => {
    const call = client.ServerReflectionInfo({ deadline: Date.now() + 10_000 });
    call.on("data", (answer) => {
      call.end();
      if (answer.error_response) reject(new Error(answer.error_response.error_message));
      else resolve(answer);
    });
    call.on("error", reject);
    call.write(question);
  });
}

// A FileDescriptorSet: every file is field 1 (tag 0x0a) with its length as a varint.
function encodeSet(files) {
  const parts = files.flatMap((file) => {
    const length = [];
    for (let rest = file.length; ; rest >>>= 7) {
      if (rest < 0x80) return [Buffer.from([0x0a, ...length, rest]), file];
      length.push((rest & 0x7f) | 0x80);
    }
  });
  return Buffer.concat(parts);
}

// The file with a symbol, and every file that it imports.
async function filesOf(client, symbol) {
  const files = new Map();
  const wanted = [{ file_containing_symbol: symbol }];
  while (wanted.length > 0) {
    const { file_descriptor_response: found } = await ask(client, wanted.pop());
    for (const file of found.file_descriptor_proto) {
      const { name, dependency } = FileDescriptorProto.decode(file);
      files.set(name, file);
      for (const other of dependency) {
        if (!files.has(other)) wanted.push({ file_by_filename: other });
      }
    }
  }
  return [...files.values()];
}

// The names of all services at `address`, and a way to make a client of one of them.
async function reflect(address) {
  const credentials = grpc.credentials.createInsecure();
  const client = new (reflectionService())(address, credentials);
  const { list_services_response: list } = await ask(client, { list_services: "" });
  const names = list.service.map((service) => service.name);

  async function connect(name) {
    const set = encodeSet(await filesOf(client, name));
    const definition = loader.loadFileDescriptorSetFromBuffer(set, OPTIONS);
    return new (grpc.makeGenericClientConstructor(definition[name], name))(address, credentials);
  }

  return { names, connect, close: () => client.close() };
}

module.exports = { reflect };
