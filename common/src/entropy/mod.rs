//! The fused entropy operation: one read of a row of logits gives everything an exit needs.
