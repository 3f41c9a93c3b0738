//! Tests of the law of the chosen tokens.
