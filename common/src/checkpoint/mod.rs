//! Hugging Face checkpoint folders: configuration, memory-mapped weights, fingerprint.
