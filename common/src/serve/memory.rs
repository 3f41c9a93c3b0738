//! How much memory the KV cache may have.

use super::free::{Free, free_memory};
use crate::{Error, Result};
use std::str::FromStr;

/// Part of the free memory that is taken where nothing is said.
const DEFAULT_SHARE: f64 = 0.25;
/// The same of a GPU, so that a drafter and its verifier fit beside each other.
const DEFAULT_GPU_SHARE: f64 = 0.4;
/// What is taken where nothing is said and the system does not tell what is free.
const DEFAULT_BYTES: u64 = 1 << 30;
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("K", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
];

/// The budget of a KV cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KvMemory {
    /// So many bytes.
    Bytes(u64),
    /// This share, above 0 and up to 1, of the memory that is free at the start.
    Share(f64),
}

impl KvMemory {
    /// The budget in bytes. `None` asks for `useful` bytes (more would never be used), but for
    /// no more than a quarter of what is free.
    ///
    /// # Errors
    /// If more bytes are asked for than are free, or a share and the system does not tell what is.
    pub fn budget(asked: Option<Self>, useful: u64) -> Result<u64> {
        Self::budget_of(asked, useful, free_memory(), DEFAULT_SHARE)
    }

    /// The same on a GPU with so many free bytes; by default two fifths of those at most.
    ///
    /// # Errors
    /// If more bytes are asked for than are free.
    pub fn budget_on_gpu(asked: Option<Self>, useful: u64, free: u64) -> Result<u64> {
        let free = Free {
            bytes: free,
            bound: "the GPU",
        };
        Self::budget_of(asked, useful, Some(free), DEFAULT_GPU_SHARE)
    }

    fn budget_of(
        asked: Option<Self>,
        useful: u64,
        free: Option<Free>,
        default_share: f64,
    ) -> Result<u64> {
        let share = |share: f64, free: Free| (free.bytes as f64 * share) as u64;
        match (asked, free) {
            (Some(Self::Bytes(bytes)), Some(free)) if bytes > free.bytes => Err(invalid(format!(
                "asks for {bytes} bytes, and {} are free, by {}: give less, or a share such as 0.25",
                free.bytes, free.bound
            ))),
            (Some(Self::Bytes(bytes)), _) => Ok(bytes),
            (Some(Self::Share(part)), Some(free)) => Ok(share(part, free)),
            (Some(Self::Share(_)), None) => Err(invalid(
                "this system does not tell how much memory is free: give a number of bytes"
                    .to_owned(),
            )),
            (None, free) => {
                let most = free.map_or(DEFAULT_BYTES, |free| share(default_share, free));
                Ok(useful.min(most))
            }
        }
    }
}

impl FromStr for KvMemory {
    type Err = Error;

    /// `4096`, `512MiB`, `2G`, or a share with a decimal point: `0.25`.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            invalid(format!(
                "`{text}` is neither a number of bytes (4096, 512MiB, 2G) nor a share of the free memory (0.25)"
            ))
        };
        if text.contains('.') {
            let share: f64 = text.parse().map_err(|_| wrong())?;
            let in_range = share > 0.0 && share <= 1.0;
            return in_range.then_some(Self::Share(share)).ok_or_else(wrong);
        }
        let (digits, unit) = UNITS
            .iter()
            .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
            .unwrap_or((text, 1));
        let count: u64 = digits.parse().map_err(|_| wrong())?;
        count.checked_mul(unit).map(Self::Bytes).ok_or_else(wrong)
    }
}

fn invalid(reason: String) -> Error {
    Error::InvalidParameter {
        field: "--kv-memory",
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::{DEFAULT_SHARE, Free, KvMemory};

    #[test]
    fn bytes_units_and_shares_are_told_apart() {
        let parsed = |text: &str| text.parse::<KvMemory>().ok();
        assert_eq!(parsed("4096"), Some(KvMemory::Bytes(4096)));
        assert_eq!(parsed("2G"), Some(KvMemory::Bytes(2_000_000_000)));
        assert_eq!(parsed("512MiB"), Some(KvMemory::Bytes(512 << 20)));
        assert_eq!(parsed("3Gi"), Some(KvMemory::Bytes(3 << 30)));
        assert_eq!(parsed("0.25"), Some(KvMemory::Share(0.25)));
        assert_eq!(parsed("1.0"), Some(KvMemory::Share(1.0)));
        for wrong in ["", "-1", "0.0", "1.5", "G", "20000000000G", "a lot", "NaN"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_default_takes_what_is_useful_and_a_part_of_what_is_free() {
        let free = |bytes| {
            Some(Free {
                bytes,
                bound: "the machine",
            })
        };
        let budget = |asked, free| KvMemory::budget_of(asked, 4096, free, DEFAULT_SHARE);
        assert_eq!(budget(None, free(1 << 20)).unwrap(), 4096);
        assert_eq!(budget(None, free(4000)).unwrap(), 1000);
        assert_eq!(budget(None, None).unwrap(), 4096);
        assert_eq!(
            budget(Some(KvMemory::Share(0.5)), free(4000)).unwrap(),
            2000
        );
        assert_eq!(
            budget(Some(KvMemory::Bytes(3000)), free(4000)).unwrap(),
            3000
        );
        assert_eq!(budget(Some(KvMemory::Bytes(5000)), None).unwrap(), 5000);
        let refused = budget(Some(KvMemory::Bytes(5000)), free(4000));
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("5000") && refused.contains("4000"),
            "{refused}"
        );
    }
}
