// Runs the kernels' own source on the CPU. Reads one request from standard input and writes the
// summaries, and the ids where choices came along, to standard output; all of it little-endian.

#include "host.hpp"

#include "../../src/math/math.cuh"
#include "../../src/entropy/logits.cuh"
#include "../../src/entropy/entropy.cu"
#include "../../src/sampling/pick.cu"

// Goes before the choices, if `picks`, and then the logits.
struct Request {
  // Bytes of a logit: 4 (f32), 2 (f16), or 3 for bf16.
  u64 dtype;
  u64 rows, vocabulary;
  // Logits from one row's beginning to the next one's, and before the first row.
  u64 stride, offset;
  u64 picks;
};

template <typename T> static std::vector<T> read(size_t count) {
  std::vector<T> values(count);
  if (fread(values.data(), sizeof(T), count, stdin) != count) host::fail("the request is too short");
  return values;
}

template <typename T> static void write(const std::vector<T>& values) {
  if (fwrite(values.data(), sizeof(T), values.size(), stdout) != values.size()) host::fail("nobody reads");
}

template <typename T, typename Summarize, typename Pick>
static void run(const Request& request, Summarize summarize, Pick pick) {
  const auto choices = read<Choice>(request.picks ? request.rows : 0);
  const auto logits = read<T>(request.offset + request.rows * request.stride);
  const T* first = logits.data() + request.offset;
  const u32 vocabulary = request.vocabulary, parts = (vocabulary + PART_LOGITS - 1) / PART_LOGITS;
  const u64 rows = request.rows, stride = request.stride;
  // Rows of the last block may be missing.
  const u32 row_blocks = (rows + PART_WARPS - 1) / PART_WARPS;

  std::vector<Partial> partials(rows * parts);
  std::vector<float> summaries(rows * SUMMARY_COLUMNS);
  host::launch(rows * parts, PART_THREADS, [&] { summarize(first, stride, vocabulary, parts, partials.data()); });
  host::launch(row_blocks, PART_THREADS, [&] { summarize_rows(partials.data(), parts, rows, summaries.data()); });
  write(summaries);
  if (!request.picks) return;
  std::vector<Candidate> candidates(rows * parts);
  std::vector<u32> ids(rows);
  host::launch(rows * parts, PART_THREADS, [&] {
    pick(first, stride, vocabulary, parts, summaries.data(), choices.data(), candidates.data());
  });
  host::launch(row_blocks, PART_THREADS, [&] { pick_rows(candidates.data(), parts, rows, ids.data()); });
  write(ids);
}

int main() {
  const Request request = read<Request>(1)[0];
  switch (request.dtype) {
    case 4: run<float>(request, summarize_parts_f32, pick_parts_f32); break;
    case 2: run<f16>(request, summarize_parts_f16, pick_parts_f16); break;
    case 3: run<bf16>(request, summarize_parts_bf16, pick_parts_bf16); break;
    default: host::fail("unknown type of logits");
  }
}
