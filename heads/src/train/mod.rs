//! Training: every head learns, at its exit, what the whole model says next.
//!
//! One pass of the frozen model serves all heads. Each head has its own loss and its own
//! optimizer, so the mean over heads of the method's loss needs no weights between them.

mod cpu;
mod gpu;
mod head;
mod learning;
mod lesson;
mod material;
mod optimizer;
mod quality;
mod settings;
mod size;
mod state;
mod trainer;

pub use head::{Kind, Origin, Start, TrainableHead};
pub use material::Material;
pub use optimizer::{AdamW, Moments, scheduled};
pub use quality::Quality;
pub use settings::{Recipe, TrainSettings};
pub use size::{Size, check_room};
pub use trainer::{Event, Outcome, check_folder, train};

#[cfg(test)]
mod tests;
