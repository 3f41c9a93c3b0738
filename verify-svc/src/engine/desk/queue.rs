//! Who waits for room, and in which order they come in: clients in turn, each one's requests in
//! the order in which they came.

use dssd_common::serve::ClientId;
use std::collections::VecDeque;

/// One that waits.
pub(super) struct Waiting<T> {
    /// Names it.
    pub(super) ticket: u64,
    pub(super) client: ClientId,
    /// KV blocks that it needs.
    pub(super) blocks: usize,
    pub(super) entry: T,
}

/// A bounded queue with a line for each client.
pub(super) struct Queue<T> {
    most: usize,
    /// In the order of their turns; none is empty.
    lines: VecDeque<VecDeque<Waiting<T>>>,
}

impl<T> Queue<T> {
    /// An empty queue of at most so many.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            lines: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lines.iter().map(VecDeque::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether another request of `client` has a place. A full queue gives up the last one of its
    /// longest line for a client that would still have fewer in it: nobody can fill the queue
    /// so that others find none.
    pub(super) fn has_place(&self, client: ClientId) -> bool {
        let longest = self.lines.iter().map(VecDeque::len).max().unwrap_or(0);
        let own = self.line(client).map_or(0, |at| self.lines[at].len());
        self.len() < self.most || own + 1 < longest
    }

    /// Adds one that [has a place](Self::has_place); returns the one that had to go for it.
    pub(super) fn push(&mut self, waiting: Waiting<T>) -> Option<Waiting<T>> {
        let gone = if self.len() < self.most {
            None
        } else {
            let longest = self.lines.iter_mut().max_by_key(|line| line.len());
            longest.and_then(VecDeque::pop_back)
        };
        match self.line(waiting.client) {
            Some(at) => self.lines[at].push_back(waiting),
            None => self.lines.push_back(VecDeque::from([waiting])),
        }
        gone
    }

    /// The next one whose turn it is, if `fits` of its blocks. If not, it keeps its turn and nobody
    /// overtakes it, so that small requests cannot keep a large one waiting for ever.
    pub(super) fn next(&mut self, fits: impl Fn(usize) -> bool) -> Option<Waiting<T>> {
        let first = self.lines.front()?.front()?;
        if !fits(first.blocks) {
            return None;
        }
        let mut line = self.lines.pop_front()?;
        let next = line.pop_front();
        if !line.is_empty() {
            self.lines.push_back(line);
        }
        next
    }

    /// Takes out the first one of which `is` is true.
    pub(super) fn remove(&mut self, is: impl Fn(&Waiting<T>) -> bool) -> Option<Waiting<T>> {
        for at in 0..self.lines.len() {
            let line = &mut self.lines[at];
            if let Some(found) = line.iter().position(&is) {
                let removed = line.remove(found);
                if line.is_empty() {
                    self.lines.remove(at);
                }
                return removed;
            }
        }
        None
    }

    /// Takes out all.
    pub(super) fn clear(&mut self) -> Vec<Waiting<T>> {
        self.lines.drain(..).flatten().collect()
    }

    fn line(&self, client: ClientId) -> Option<usize> {
        let of = |line: &VecDeque<Waiting<T>>| line.front().is_some_and(|w| w.client == client);
        self.lines.iter().position(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> ClientId {
        ClientId::of_token(name.as_bytes())
    }

    fn waiting(name: &str, entry: u32, blocks: usize) -> Waiting<u32> {
        Waiting {
            ticket: u64::from(entry),
            client: client(name),
            blocks,
            entry,
        }
    }

    fn queue(most: usize, entries: &[(&str, u32)]) -> Queue<u32> {
        let mut queue = Queue::new(most);
        for &(name, entry) in entries {
            assert!(queue.push(waiting(name, entry, 1)).is_none());
        }
        queue
    }

    fn order(mut queue: Queue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.next(|_| true).map(|w| w.entry)).collect()
    }

    #[test]
    fn clients_come_in_in_turn_and_each_in_its_own_order() {
        let flood = [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)];
        assert_eq!(order(queue(9, &flood)), [1, 4, 5, 2, 6, 3]);
    }

    #[test]
    fn one_that_does_not_fit_is_not_overtaken() {
        let mut queue = Queue::new(9);
        queue.push(waiting("a", 1, 5));
        queue.push(waiting("b", 2, 1));
        assert!(queue.next(|blocks| blocks <= 4).is_none());
        assert_eq!(queue.next(|blocks| blocks <= 5).map(|w| w.entry), Some(1));
        assert_eq!(queue.next(|blocks| blocks <= 1).map(|w| w.entry), Some(2));
    }

    #[test]
    fn a_full_queue_takes_from_the_longest_line_for_those_with_less() {
        let mut queue = queue(4, &[("a", 1), ("a", 2), ("a", 3), ("a", 4)]);
        assert!(!queue.has_place(client("a")));
        assert!(queue.has_place(client("b")));
        assert_eq!(queue.push(waiting("b", 5, 1)).map(|w| w.entry), Some(4));
        assert!(queue.has_place(client("c")));
        assert_eq!(queue.push(waiting("c", 6, 1)).map(|w| w.entry), Some(3));
        let equal = ["a", "b"].map(|name| queue.has_place(client(name)));
        assert_eq!(equal, [false, false], "nobody is pushed out for an equal");
        assert_eq!(order(queue), [1, 5, 6, 2]);
    }

    #[test]
    fn a_queue_of_none_has_no_place() {
        assert!(!Queue::<u32>::new(0).has_place(client("a")));
    }

    #[test]
    fn what_is_taken_out_leaves_the_others_in_order() {
        let mut queue = queue(9, &[("a", 1), ("b", 2), ("a", 3), ("b", 4)]);
        assert_eq!(queue.remove(|w| w.ticket == 2).map(|w| w.entry), Some(2));
        assert!(queue.remove(|w| w.ticket == 2).is_none());
        assert_eq!(queue.len(), 3);
        assert_eq!(order(queue), [1, 4, 3]);
    }
}
