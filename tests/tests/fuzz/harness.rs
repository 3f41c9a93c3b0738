//! Runs a target: seeded inputs, a time budget, a watchdog, a count.

use crate::allocation;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// Seconds of all targets together, where nobody says.
const SECONDS: f64 = 40.0;
/// Time of one input on a machine that others use too; one that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that no single allocation may exceed: inputs are far smaller.
const MOST_BYTES: usize = 256 << 20;
/// Inputs that a target must have had even in the shortest run.
const FEWEST: u64 = 20;

/// One place where input comes in.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Part of the time; those of all targets add up to 1.
    pub(crate) share: f64,
}

impl Target {
    /// Gives `input` random numbers again and again until the time is over. It says whether what it
    /// made of them was accepted: a target that refuses everything tests little.
    pub(crate) fn run(&self, mut input: impl FnMut(&mut ChaCha8Rng) -> bool) {
        let seed = number("DSSD_FUZZ_SEED").unwrap_or(1);
        let only = number("DSSD_FUZZ_INPUT");
        let budget = Duration::from_secs_f64(seconds() * self.share);
        let (heartbeat, watchdog) = self.watch(seed);
        let begun = Instant::now();
        let (mut inputs, mut accepted) = (0, 0);
        for index in only.unwrap_or(0).. {
            if inputs >= FEWEST && begun.elapsed() >= budget || only.is_some() && inputs == 1 {
                break;
            }
            heartbeat.send(index).unwrap();
            allocation::largest();
            accepted += u64::from(self.one(seed, index, &mut input));
            inputs += 1;
        }
        drop(heartbeat);
        watchdog.join().unwrap();
        println!(
            "fuzz {}: {inputs} inputs, {accepted} accepted, seed {seed}, {:.1} s",
            self.name,
            begun.elapsed().as_secs_f64()
        );
        if only.is_none() {
            assert!(accepted > 0 && accepted < inputs, "inputs are one-sided");
        }
    }

    fn one(&self, seed: u64, index: u64, input: &mut impl FnMut(&mut ChaCha8Rng) -> bool) -> bool {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(index);
        let outcome = catch_unwind(AssertUnwindSafe(|| input(&mut random)));
        let place = || format!("{}: {}", self.name, reproduction(seed, index));
        let largest = allocation::largest();
        assert!(
            largest <= MOST_BYTES,
            "{}: allocates {largest} bytes",
            place()
        );
        outcome.unwrap_or_else(|_| panic!("{}", place()))
    }

    /// Ends the process if an input takes too long: a thread that hangs cannot be ended.
    fn watch(&self, seed: u64) -> (mpsc::Sender<u64>, thread::JoinHandle<()>) {
        let (heartbeat, beats) = mpsc::channel();
        let name = self.name;
        let watchdog = thread::spawn(move || {
            let mut current = 0;
            loop {
                match beats.recv_timeout(PATIENCE) {
                    Ok(index) => current = index,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        eprintln!("{name} hangs: {}", reproduction(seed, current));
                        std::process::exit(1);
                    }
                }
            }
        });
        (heartbeat, watchdog)
    }
}

fn reproduction(seed: u64, index: u64) -> String {
    format!("DSSD_FUZZ_SEED={seed} DSSD_FUZZ_INPUT={index}")
}

fn seconds() -> f64 {
    let asked = env::var("DSSD_FUZZ_SECONDS").ok();
    asked.map_or(SECONDS, |text| {
        text.parse()
            .expect("DSSD_FUZZ_SECONDS is a number of seconds")
    })
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}
