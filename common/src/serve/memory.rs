//! How much memory the KV cache may have.

use crate::{Error, Result};
use std::{fs, str::FromStr};

/// Part of the free memory that is taken where nothing is said.
const DEFAULT_SHARE: f64 = 0.25;
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
    /// If more bytes are asked for than there are, free or not, or a share of what the system does
    /// not tell.
    pub fn budget(asked: Option<Self>, useful: u64) -> Result<u64> {
        let share = |share: f64, free: u64| (free as f64 * share) as u64;
        match (asked, free_memory()) {
            (Some(Self::Bytes(bytes)), _) => match whole_memory() {
                Some(whole) if bytes > whole => Err(invalid(format!(
                    "{bytes} bytes are more than this machine, or the control group, has: {whole}"
                ))),
                _ => Ok(bytes),
            },
            (Some(Self::Share(part)), Some(free)) => Ok(share(part, free)),
            (Some(Self::Share(_)), None) => Err(invalid(
                "this system does not tell how much memory is free: give a number of bytes"
                    .to_owned(),
            )),
            (None, free) => {
                let most = free.map_or(DEFAULT_BYTES, |free| share(DEFAULT_SHARE, free));
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

/// Bytes that this process may still take: what the system has, and what its control group may.
fn free_memory() -> Option<u64> {
    let free = system_memory("MemAvailable:")?;
    let used = group_memory("memory.current").unwrap_or(0);
    let group = group_memory("memory.max").map(|most| most.saturating_sub(used));
    Some(group.map_or(free, |group| group.min(free)))
}

/// Bytes that this process could take at most, were it alone.
fn whole_memory() -> Option<u64> {
    let whole = system_memory("MemTotal:")?;
    Some(group_memory("memory.max").map_or(whole, |group| group.min(whole)))
}

fn system_memory(name: &str) -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes.saturating_mul(1024))
}

/// A number of the control group; `memory.max` is the word `max` where there is no limit.
fn group_memory(file: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?;
    text.trim().parse().ok()
}

fn invalid(reason: String) -> Error {
    Error::InvalidParameter {
        field: "kv_memory",
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::KvMemory;

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
    fn the_default_takes_no_more_than_is_useful() {
        assert_eq!(KvMemory::budget(None, 4096).unwrap(), 4096);
        let asked = Some(KvMemory::Bytes(1 << 20));
        assert_eq!(KvMemory::budget(asked, 4096).unwrap(), 1 << 20);
    }

    #[test]
    fn more_than_the_machine_has_is_refused_before_it_is_taken() {
        let asked = Some(KvMemory::Bytes(u64::MAX));
        let error = KvMemory::budget(asked, 4096).unwrap_err().to_string();
        assert!(error.contains("18446744073709551615 bytes"), "{error}");
    }
}
