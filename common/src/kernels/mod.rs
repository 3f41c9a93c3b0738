//! CPU kernels with one fixed order of summation.
//!
//! Every sum runs over 16 virtual lanes, lane = index mod 16, by fused multiply-adds in order of
//! the index, with tails as zero lanes and one fixed tree at the end. The order does not depend on
//! the number of rows, a row's place, the threads or the instruction set, so the bits of a result
//! do not either. That makes "speculation on = speculation off" a theorem.

mod activation;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod cuda;
mod divergence;
pub(crate) mod elementary;
mod isa;
mod matmul;
mod matrix;
#[cfg(target_arch = "aarch64")]
mod neon;
mod norm;
mod op;
pub(crate) mod pool;
mod portable;
mod rope;
pub(crate) mod simd;

use activation::{Activate, Add};
use attention::Attend;
use divergence::{CrossEntropy, Probabilities};
use matmul::Product;
use norm::{Norm, NormRows};
use pool::{Disjoint, Pool};
use rope::RopeRows;

pub use activation::Activation;
pub use attention::{AttentionRow, AttentionShape};
pub use cuda::{
    AdamWStep, Effort, Gpu, GpuLogits, GpuParameter, GpuRows, GpuSummaries, LogitRows,
    Product as GpuProduct, READ_ONLY, Store, Timing, entropy_name,
};
pub use isa::Isa;
pub use matrix::{Matrix, WeightType};
pub use op::skinny_product;
pub use rope::Rope;

use crate::{Error, Result, entropy::Summary};

/// Floating-point operations below which waking another thread costs more than it saves.
const WORTH_A_THREAD: usize = 32 << 10;

/// The kernels on one instruction set and one pool of threads.
///
/// Calls from several threads at once are safe: while one call uses the pool, others run on
/// their own thread. All buffers are dense and row-major; a length that does not fit panics.
#[derive(Debug)]
pub struct Kernels {
    isa: Isa,
    pool: Pool,
}

impl Kernels {
    /// Kernels on the best instruction set of this CPU; the calling thread is one of `threads`.
    pub fn new(threads: usize) -> Self {
        Self {
            isa: Isa::detect(),
            pool: Pool::new(threads),
        }
    }

    /// Kernels on a given instruction set.
    ///
    /// # Errors
    /// If this CPU does not have it.
    pub fn with_isa(isa: Isa, threads: usize) -> Result<Self> {
        if !Isa::available().contains(&isa) {
            let reason = format!(
                "this CPU has no {}; it has {:?}",
                isa.name(),
                Isa::available()
            );
            return Err(Error::InvalidParameter {
                field: "isa",
                reason,
            });
        }
        Ok(Self {
            isa,
            pool: Pool::new(threads),
        })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads that share the work, the caller included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// `out[r, j] = Σ_i x[r, i] · w[j, i]`, then one addition of `bias[j]`.
    /// Shapes: `x` `[m, k]`, `w` `[n, k]`, `out` `[m, n]`.
    pub fn matmul(&self, x: &[f32], w: &Matrix, bias: Option<&[f32]>, out: &mut [f32]) {
        let product = Product {
            x,
            k: w.k(),
            n: w.n(),
            bias,
            out,
        };
        product.run(w.weights(), self.isa, &self.pool);
    }

    /// Layer norm of rows of `weight.len()`: `(x − mean) / sqrt(variance + eps) · weight + bias`.
    pub fn layer_norm(
        &self,
        x: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
        eps: f32,
        out: &mut [f32],
    ) {
        assert!(
            bias.is_none_or(|b| b.len() == weight.len()),
            "bias and weight differ in length"
        );
        self.norm(Norm::Layer { bias }, x, weight, eps, out);
    }

    /// RMS norm of rows of `weight.len()`: `x / sqrt(mean(x²) + eps) · weight`.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        self.norm(Norm::Rms, x, weight, eps, out);
    }

    fn norm(&self, norm: Norm<'_>, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len(), "x and out differ in length");
        let width = weight.len();
        assert!(
            x.len().is_multiple_of(width),
            "x must be whole rows of {width}"
        );
        self.items(out, width, 6 * width, |first, out| {
            let x = &x[first * width..][..out.len()];
            self.isa.run(NormRows {
                norm,
                x,
                weight,
                eps,
                out,
            });
        });
    }

    /// Rotates rows of `args.row_stride` floats in place; see [`Rope`].
    pub fn rope(&self, x: &mut [f32], args: Rope<'_>) {
        let stride = args.row_stride;
        assert_eq!(
            x.len(),
            stride * args.positions.len(),
            "x must have a row for each position"
        );
        self.items(x, stride, 8 * args.heads * args.half, |first, x| {
            let positions = &args.positions[first..][..x.len() / stride];
            self.isa.run(RopeRows {
                args: Rope { positions, ..args },
                x,
            });
        });
    }

    /// `x = act(x)`, element by element.
    pub fn activation(&self, kind: Activation, x: &mut [f32]) {
        self.items(x, 1, 32, |_, x| {
            self.isa.run(Activate { kind, x, up: None })
        });
    }

    /// `gate = act(gate) · up`, element by element.
    pub fn gated(&self, kind: Activation, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "gate and up differ in length");
        self.items(gate, 1, 32, |first, x| {
            let up = &up[first..][..x.len()];
            self.isa.run(Activate {
                kind,
                x,
                up: Some(up),
            });
        });
    }

    /// `acc = acc + x`: the residual connection.
    pub fn add(&self, acc: &mut [f32], x: &[f32]) {
        assert_eq!(acc.len(), x.len(), "acc and x differ in length");
        self.items(acc, 1, 1, |first, acc| {
            let x = &x[first..][..acc.len()];
            self.isa.run(Add { acc, x });
        });
    }

    /// Softmax attention of each row over its keys. Shapes: `q` and `out`
    /// `[rows, heads · head_dim]`; `storage` as [`AttentionShape`] says. A row needs one key.
    pub fn attention(
        &self,
        q: &[f32],
        rows: &[AttentionRow<'_>],
        storage: &[f32],
        shape: &AttentionShape,
        out: &mut [f32],
    ) {
        let held = |row: &AttentionRow<'_>| row.blocks.len() * shape.block_positions;
        assert!(
            rows.iter().all(|row| (1..=held(row)).contains(&row.keys)),
            "keys without blocks"
        );
        assert!(
            shape.heads.is_multiple_of(shape.kv_heads),
            "heads must be shared evenly"
        );
        assert_eq!(
            q.len(),
            rows.len() * shape.heads * shape.head_dim,
            "q must be [rows, heads]"
        );
        assert_eq!(q.len(), out.len(), "q and out differ in length");
        let keys = rows.iter().map(|row| row.keys).max().unwrap_or(0);
        self.items(
            out,
            shape.head_dim,
            4 * keys * shape.head_dim,
            |first_item, out| {
                self.isa.run(Attend {
                    q,
                    rows,
                    storage,
                    shape,
                    first_item,
                    out,
                });
            },
        );
    }

    /// The entropy operation on each row of `logits` `[rows, vocabulary]`; see
    /// [`crate::entropy`]. Replaces the content of `out`.
    pub fn summarize(&self, logits: &[f32], vocabulary: usize, out: &mut Vec<Summary>) {
        assert!(
            logits.len().is_multiple_of(vocabulary),
            "logits must be rows of {vocabulary}"
        );
        out.clear();
        let rows: Vec<&[f32]> = logits.chunks_exact(vocabulary).collect();
        out.extend(crate::entropy::summarize_rows(&rows, self.isa, &self.pool));
    }

    /// Rows of logits become probabilities: `logits` `[rows, vocabulary]`, `log_sum_exp` `[rows]`.
    pub fn probabilities(&self, logits: &mut [f32], log_sum_exp: &[f32]) {
        let vocabulary = logits.len() / log_sum_exp.len().max(1);
        assert_eq!(
            logits.len(),
            vocabulary * log_sum_exp.len(),
            "logits must be whole rows"
        );
        self.pool.pieces(logits, vocabulary.max(1), |row, logits| {
            self.isa.run(Probabilities {
                logits,
                log_sum_exp: log_sum_exp[row],
            });
        });
    }

    /// The cross-entropy in nats of each row of `logits` under the probabilities of `teacher`;
    /// the logits become its gradient, `q − p`. Shapes: `teacher` and `logits`
    /// `[rows, vocabulary]`, `log_sum_exp` (of the logits) and `out` `[rows]`.
    pub fn cross_entropy(
        &self,
        teacher: &[f32],
        logits: &mut [f32],
        log_sum_exp: &[f32],
        out: &mut [f32],
    ) {
        let rows = log_sum_exp.len();
        let vocabulary = logits.len() / rows.max(1);
        assert_eq!(teacher.len(), logits.len(), "teacher and logits differ");
        assert_eq!(logits.len(), vocabulary * rows, "logits must be whole rows");
        assert_eq!(out.len(), rows, "out must have an element for each row");
        let out = Disjoint::new(out);
        self.pool.pieces(logits, vocabulary.max(1), |row, logits| {
            let value = self.isa.run(CrossEntropy {
                teacher: &teacher[row * vocabulary..][..vocabulary],
                logits,
                log_sum_exp: log_sum_exp[row],
            });
            // SAFETY: rows are in bounds and each is visited once; `out` outlives the call.
            let out = unsafe { out.slice(row..row + 1) };
            out[0] = value;
        });
    }

    /// Calls `body` once with each of `0..chunks`, on all threads, in any order.
    pub fn parallel(&self, chunks: usize, body: &(dyn Fn(usize) + Sync)) {
        self.pool.run(chunks, body);
    }

    /// Splits `data` between items of `length` floats and calls `body` with the first item's
    /// index and the floats. `cost`: floating-point operations per item.
    fn items(
        &self,
        data: &mut [f32],
        length: usize,
        cost: usize,
        body: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let items = data.len() / length;
        // Four pieces per thread even out what the system takes from one of them.
        let pieces = (items * cost / WORTH_A_THREAD).clamp(1, 4 * self.threads());
        let per_piece = items.div_ceil(pieces).max(1);
        self.pool.pieces(data, per_piece * length, |piece, data| {
            body(piece * per_piece, data)
        });
    }
}
