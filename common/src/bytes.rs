//! Bytes with a shared owner: a range of a memory map or of a buffer.

use std::{ops::Range, sync::Arc};

/// A cheaply cloned, immutable range of bytes that keeps its owner (a file map, a buffer) alive.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl SharedBytes {
    /// The bytes `range` of `owner`, or `None` if the owner has fewer.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Option<Self> {
        (*owner).as_ref().get(range.clone())?;
        Some(Self { owner, range })
    }

    /// Takes a buffer whole.
    pub fn from_vec(buffer: Vec<u8>) -> Self {
        let range = 0..buffer.len();
        Self {
            owner: Arc::new(buffer),
            range,
        }
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl std::fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.range.len())
    }
}
