//! Self-attention over the jagged cache.

use super::{mlp::Linear, rotary::RotaryTable};
use crate::{
    kernels::{AttentionRow, AttentionShape, Kernels},
    kv::{BLOCK_POSITIONS, SequenceId, Step},
};

/// How queries, keys and values come out of the input.
pub(super) enum Projections {
    /// One matrix with rows laid out `[heads, 3, head_dim]` (GPT-NeoX).
    Fused(Linear),
    /// Three matrices (Llama).
    Separate {
        query: Linear,
        key: Linear,
        value: Linear,
    },
}

/// Projections, attention, and the way back to the residual stream.
pub(super) struct Attention {
    pub(super) projections: Projections,
    pub(super) output: Linear,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

/// Buffers of [`Attention::apply`], kept between calls.
#[derive(Default)]
pub(super) struct AttentionScratch {
    fused: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    mixed: Vec<f32>,
}

/// Where each row of a step stands.
pub(super) struct RowPlaces {
    pub(super) sequences: Vec<SequenceId>,
    pub(super) positions: Vec<usize>,
}

impl Attention {
    /// Appends the keys and values of all rows, then attends: `x` and `out` are `[rows, hidden]`.
    pub(super) fn apply(
        &self,
        context: &LayerContext<'_>,
        step: &mut Step<'_>,
        x: &[f32],
        scratch: &mut AttentionScratch,
        out: &mut Vec<f32>,
    ) {
        let LayerContext {
            kernels,
            rotary,
            rows,
            layer,
        } = *context;
        self.project(kernels, x, scratch);
        rotary.apply(kernels, self.heads, &rows.positions, &mut scratch.query);
        rotary.apply(kernels, self.kv_heads, &rows.positions, &mut scratch.key);
        let width = self.kv_heads * self.head_dim;
        let pairs = scratch
            .key
            .chunks_exact(width)
            .zip(scratch.value.chunks_exact(width));
        for ((&id, &position), (key, value)) in
            rows.sequences.iter().zip(&rows.positions).zip(pairs)
        {
            step.write(id, layer, position, key, value);
        }
        scratch.mixed.resize(scratch.query.len(), 0.0);
        let tables: Vec<AttentionRow<'_>> = rows
            .sequences
            .iter()
            .zip(&rows.positions)
            .map(|(&id, &position)| AttentionRow {
                blocks: step.table(id, layer),
                keys: position + 1,
            })
            .collect();
        kernels.attention(
            &scratch.query,
            &tables,
            step.storage(),
            &self.shape(),
            &mut scratch.mixed,
        );
        self.output.apply(kernels, &scratch.mixed, out);
    }

    pub(super) fn shape(&self) -> AttentionShape {
        AttentionShape {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            block_positions: BLOCK_POSITIONS,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
        }
    }

    fn project(&self, kernels: &Kernels, x: &[f32], scratch: &mut AttentionScratch) {
        let AttentionScratch {
            fused,
            query,
            key,
            value,
            ..
        } = scratch;
        match &self.projections {
            Projections::Separate {
                query: q,
                key: k,
                value: v,
            } => {
                q.apply(kernels, x, query);
                k.apply(kernels, x, key);
                v.apply(kernels, x, value);
            }
            Projections::Fused(qkv) => {
                qkv.apply(kernels, x, fused);
                [&mut *query, &mut *key, &mut *value]
                    .into_iter()
                    .for_each(Vec::clear);
                for head in fused.chunks_exact(3 * self.head_dim) {
                    query.extend_from_slice(&head[..self.head_dim]);
                    key.extend_from_slice(&head[self.head_dim..2 * self.head_dim]);
                    value.extend_from_slice(&head[2 * self.head_dim..]);
                }
            }
        }
    }

    pub(super) fn byte_len(&self) -> usize {
        let inputs = match &self.projections {
            Projections::Fused(qkv) => qkv.byte_len(),
            Projections::Separate { query, key, value } => {
                query.byte_len() + key.byte_len() + value.byte_len()
            }
        };
        inputs + self.output.byte_len()
    }
}

/// What a layer needs to know of the step that it is part of.
#[derive(Clone, Copy)]
pub(super) struct LayerContext<'a> {
    pub(super) kernels: &'a Kernels,
    pub(super) rotary: &'a RotaryTable,
    pub(super) rows: &'a RowPlaces,
    pub(super) layer: usize,
}
