//! The two session state machines, without a network: scripted scenarios for every rule of
//! the drafting protocol, and random runs over a link that loses, delays, doubles and
//! reorders messages.

#[cfg(test)]
mod chaos;
#[cfg(test)]
mod drafter;
#[cfg(test)]
mod link;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod script;
#[cfg(test)]
mod toy;
#[cfg(test)]
mod verifier;
