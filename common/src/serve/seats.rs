//! How many calls each client has open.

use super::ClientId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Counts the open calls of each client, and takes no more than so many.
pub(super) struct Seats {
    most: usize,
    taken: Mutex<HashMap<ClientId, usize>>,
}

/// One open call; dropping it makes room for another one.
pub struct Seat {
    seats: Arc<Seats>,
    client: ClientId,
}

impl Seats {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            taken: Mutex::default(),
        }
    }

    /// The most that a client may have.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// A seat for a call of this client, if it may have one more.
    pub(super) fn take(self: &Arc<Self>, client: ClientId) -> Option<Seat> {
        self.change(client, |count| (*count < self.most).then(|| *count += 1))?;
        Some(Seat {
            seats: Arc::clone(self),
            client,
        })
    }

    fn change<T>(&self, client: ClientId, change: impl FnOnce(&mut usize) -> T) -> T {
        // No code panics while it holds the lock.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(client).or_default();
        let changed = change(count);
        if *count == 0 {
            taken.remove(&client);
        }
        changed
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.change(self.client, |count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_seats_and_gets_them_back() {
        let seats = Arc::new(Seats::new(2));
        let (one, two) = (ClientId::of_token(b"one"), ClientId::of_token(b"two"));
        let first = seats.take(one);
        let second = seats.take(one);
        assert!(first.is_some() && second.is_some());
        assert!(seats.take(one).is_none());
        let other = seats.take(two);
        assert!(other.is_some());
        drop(first);
        let third = seats.take(one);
        assert!(third.is_some() && seats.take(one).is_none());
        drop((second, third, other));
        assert!(
            seats.taken.lock().unwrap().is_empty(),
            "nothing is kept of who is gone"
        );
    }
}
