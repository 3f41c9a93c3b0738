//! What every generation must give, and what came of them.

use crate::{
    cluster::common_flags,
    processes::{Kind, Process},
    requests,
};
use dssd::client::{Client, Generated};
use dssd_proto::v1::GenerateRequest;
use futures::{StreamExt as _, stream};
use std::{fmt, sync::Mutex, time::Duration};

/// Generations of the undisturbed run at once.
const AT_ONCE: usize = 8;

/// A request and the whole answer to it, of an undisturbed server.
pub(crate) struct Entry {
    pub(crate) request: GenerateRequest,
    pub(crate) answer: Generated,
}

/// How generations ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) whole: u64,
    pub(crate) cancelled: u64,
    pub(crate) expired: u64,
    pub(crate) tokens: u64,
    pub(crate) resumes: u64,
    pub(crate) drafted: u64,
    pub(crate) accepted: u64,
    pub(crate) drafter_losses: u64,
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) entries: Vec<Entry>,
    counts: Mutex<Counts>,
    wrong: Mutex<Vec<String>>,
}

impl Ledger {
    /// Asks a plain verifier that nothing disturbs.
    pub(crate) async fn of(requests: Vec<GenerateRequest>) -> Self {
        let mut verifier = Process::start(Kind::Verifier, &common_flags()).await;
        let uri = format!("http://{}", verifier.address).parse().unwrap();
        let client = Client::new(&[uri]);
        let answers = stream::iter(requests).map(|request| {
            let mut client = client.clone();
            async move {
                let plain = requests::plain(&request);
                let answer = client.generate(plain, &mut |_| ()).await.unwrap();
                assert_eq!(answer.resumed, 0, "nothing disturbs this run");
                Entry { request, answer }
            }
        });
        let entries = answers.buffered(AT_ONCE).collect().await;
        verifier.signal("TERM");
        let status = verifier.ended(Duration::from_secs(30)).await;
        assert!(status.success(), "{status}");
        Self {
            entries,
            ..Self::default()
        }
    }

    /// A generation that came to its end: it must be the undisturbed one.
    pub(crate) fn whole(&self, entry: &Entry, answer: &Generated) {
        let expected = &entry.answer;
        // A client that lacked nothing but the end says itself how it ended.
        let same_end = answer.finish.finish_reason == expected.finish.finish_reason;
        if !answer.has_answer_of(expected) || !same_end {
            let asked = &entry.request;
            self.complain(format!(
                "{:?} {:?} differ from {:?} {:?} for {asked:?}",
                answer.finish, answer.token_ids, expected.finish, expected.token_ids
            ));
        }
        let report = answer
            .finish
            .speculative_decoding
            .clone()
            .unwrap_or_default();
        self.count(|counts| {
            counts.whole += 1;
            counts.tokens += answer.token_ids.len() as u64;
            counts.resumes += u64::from(answer.resumed);
            counts.drafted += report.num_draft_tokens;
            counts.accepted += report.num_accepted_tokens;
            counts.drafter_losses += report.drafter_losses;
        });
    }

    /// A generation that its client ended: what came is how the undisturbed one begins.
    pub(crate) fn part(&self, entry: &Entry, tokens: &[u32], text: &str) {
        let expected = &entry.answer;
        if !expected.token_ids.starts_with(tokens) || !expected.text.starts_with(text) {
            let asked = &entry.request;
            self.complain(format!(
                "{tokens:?} `{text}` is not how {:?} begins, for {asked:?}",
                expected.token_ids
            ));
        }
        self.count(|counts| counts.tokens += tokens.len() as u64);
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap());
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap()
    }

    pub(crate) fn complain(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    /// Everything that was wrong.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} whole, {} cancelled and {} expired generations, {} tokens; {} resumes, \
             {} drafter losses, {} of {} drafted tokens accepted",
            self.whole,
            self.cancelled,
            self.expired,
            self.tokens,
            self.resumes,
            self.drafter_losses,
            self.accepted,
            self.drafted,
        )
    }
}
