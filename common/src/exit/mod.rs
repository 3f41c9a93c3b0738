//! Exit heads: where the model may be left early, and what is read there.
