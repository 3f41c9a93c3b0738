//! From a row of logits to a token, by the Gumbel coupling.
//!
//! Greedy decoding takes the arg-max. Above temperature zero the token is
//! argmax over the kept ids of l/T + G(seed, index, id), where the Gumbel noise G is a pure function of the request's
//! seed, the absolute index of the token in its sequence, and the id. A token so chosen has exactly the softmax law
//! of the filtered logits, and two parties that hold similar logits and the same seed choose the same token often:
//! P(match) ≥ (1 − TV)/(1 + TV), TV being the total variation distance of their laws.
//!
//! Every step is f64 arithmetic in a written order without the system's mathematical library, so the choice depends on
//! the bits of the logits, the parameters and the tokens so far, and on nothing else.

mod acceptance;
mod choice;
mod filter;
mod history;
#[cfg(test)]
mod law;
mod logprobs;
mod noise;
mod params;
mod penalties;
mod philox;
mod sampler;
mod stop;

pub use acceptance::{Accepted, accept};
pub use choice::Choice;
pub use history::History;
pub use logprobs::{Logprob, TokenLogprobs, logprobs};
pub use params::SamplingParams;
pub use sampler::{Sampler, Scratch};
pub use stop::{MAX_STOP_BYTES, MAX_STOP_STRINGS, StopHit, StopMatcher};
