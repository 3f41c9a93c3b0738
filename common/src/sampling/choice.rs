//! The choice of a token that needs nothing but its row of logits and three numbers.

/// How the token of a row is chosen without penalties, masks and filters: what a GPU is told of it, as `Choice` in
/// `pick.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Key of the noise.
    pub seed: u64,
    /// Absolute index of the token in its sequence.
    pub index: u64,
    /// 0 is greedy.
    pub temperature: f64,
}

impl Choice {
    /// The best id.
    pub const GREEDY: Self = Self {
        seed: 0,
        index: 0,
        temperature: 0.0,
    };
}
