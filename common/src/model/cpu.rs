//! The pass on the CPU.

use super::{
    Readout,
    attention::{LayerContext, RowPlaces},
    head::{Head, HeadScratch},
    layer::{Layer, LayerScratch},
    pass::{Pass, Rows},
    rotary::RotaryTable,
};
use crate::{Result, kernels::Kernels, kv::Step};
use std::{ops::Range, sync::Arc};

/// Layers and heads in memory, with the buffers of a pass.
pub(super) struct CpuPass {
    kernels: Arc<Kernels>,
    layers: Vec<Layer>,
    head: Arc<Head>,
    exits: Vec<(usize, Head)>,
    rotary: RotaryTable,
    scratch: LayerScratch,
    head_scratch: HeadScratch,
}

impl CpuPass {
    pub(super) fn new(
        kernels: &Arc<Kernels>,
        layers: Vec<Layer>,
        head: &Arc<Head>,
        rotary: RotaryTable,
    ) -> Self {
        Self {
            kernels: Arc::clone(kernels),
            layers,
            head: Arc::clone(head),
            exits: Vec::new(),
            rotary,
            scratch: LayerScratch::default(),
            head_scratch: HeadScratch::default(),
        }
    }
}

impl Pass for CpuPass {
    fn allocate(&mut self, _floats: usize) -> Result<()> {
        Ok(())
    }

    fn run(
        &mut self,
        layers: Range<usize>,
        rows: &RowPlaces,
        step: &mut Step<'_>,
        hidden: &mut [f32],
    ) -> Result<()> {
        for layer in layers {
            let context = LayerContext {
                kernels: &self.kernels,
                rotary: &self.rotary,
                rows,
                layer,
            };
            self.layers[layer].apply(&context, step, &mut self.scratch, hidden);
        }
        Ok(())
    }

    fn attach_exits(&mut self, exits: Vec<(usize, Head)>) -> Result<()> {
        self.exits = exits;
        Ok(())
    }

    fn logits(&mut self, exit: Option<usize>, hidden: &[f32], out: &mut Vec<f32>) -> Result<()> {
        let trained = self.exits.iter().find(|(at, _)| Some(*at) == exit);
        let head = trained.map_or(&*self.head, |(_, head)| head);
        head.logits(&self.kernels, hidden, &mut self.head_scratch, out);
        Ok(())
    }

    fn read(&mut self, rows: Rows<'_>, out: &mut Readout) -> Result<()> {
        out.begin(self.head.vocabulary());
        self.logits(rows.exit, rows.hidden, &mut out.logits)?;
        out.set_here();
        if rows.summaries {
            let vocabulary = self.head.vocabulary();
            self.kernels
                .summarize(&out.logits, vocabulary, &mut out.summaries);
        }
        Ok(())
    }

    fn copied_rows(&self) -> u64 {
        0
    }
}
