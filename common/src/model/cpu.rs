//! The pass on the CPU.

use super::{
    Readout,
    attention::{LayerContext, RowPlaces},
    head::{Head, HeadScratch},
    layer::{Layer, LayerScratch},
    pass::{Pass, Reads, StepSeconds, Wanted},
    rotary::RotaryTable,
};
use crate::{Result, kernels::Kernels, kv::Step};
use std::{ops::Range, sync::Arc, time::Instant};

/// Layers and heads in memory, with the buffers of a pass.
pub(super) struct CpuPass {
    kernels: Arc<Kernels>,
    layers: Vec<Layer>,
    head: Arc<Head>,
    exits: Vec<(usize, Head)>,
    rotary: RotaryTable,
    scratch: LayerScratch,
    head_scratch: HeadScratch,
    /// States that are read.
    read: Vec<f32>,
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
            read: Vec::new(),
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
        wanted: Wanted<'_>,
    ) -> Result<StepSeconds> {
        let begun = Instant::now();
        for layer in layers {
            let context = LayerContext {
                kernels: &self.kernels,
                rotary: &self.rotary,
                rows,
                layer,
            };
            self.layers[layer].apply(&context, step, &mut self.scratch, hidden);
        }
        let through = begun.elapsed();
        if let Some((reads, out)) = wanted.reads {
            self.read(hidden, reads, out)?;
        }
        let reads = begun.elapsed() - through;
        Ok(StepSeconds {
            layers: through.as_secs_f64(),
            reads: reads.as_secs_f64(),
        })
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

    fn copied_rows(&self) -> u64 {
        0
    }
}

impl CpuPass {
    fn read(&mut self, hidden: &[f32], reads: Reads<'_>, out: &mut Readout) -> Result<()> {
        let vocabulary = self.head.vocabulary();
        out.begin(vocabulary);
        let width = self.head.norm.weight.len();
        let states = |&row: &u32| &hidden[row as usize * width..][..width];
        let mut read = std::mem::take(&mut self.read);
        read.clear();
        reads
            .rows
            .iter()
            .map(states)
            .for_each(|state| read.extend_from_slice(state));
        self.logits(reads.exit, &read, &mut out.logits)?;
        self.read = read;
        out.set_here();
        if reads.summaries {
            self.kernels
                .summarize(&out.logits, vocabulary, &mut out.summaries);
        }
        Ok(())
    }
}
