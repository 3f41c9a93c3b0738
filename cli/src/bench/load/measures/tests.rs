use super::*;
use crate::bench::load::call::Answer;
use dssd_proto::v1::{PlainReason, PlainRoundCount};

/// A clock whose zero lies in the future: times before it can be told, too.
struct Clock(Instant);

impl Clock {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn at(&self, milliseconds: u64) -> Instant {
        self.0 + Duration::from_millis(milliseconds)
    }

    fn window(&self, begin: u64, end: u64) -> Window {
        let window = Window::default();
        window.begin(self.at(begin));
        window.end(self.at(end));
        window
    }

    /// A call that was due at 0, with messages of so many tokens at these times.
    fn outcome(&self, messages: &[(u64, u32)], ended: u64, end: End) -> Outcome {
        let arrivals = messages.iter().map(|&(at, tokens)| Arrival {
            at: self.at(at),
            tokens,
        });
        let tokens: u32 = messages.iter().map(|message| message.1).sum();
        Outcome {
            due: self.at(0),
            ended: self.at(ended),
            arrivals: arrivals.collect(),
            answer: Answer {
                token_ids: vec![0; tokens as usize],
                text: String::new(),
            },
            end,
        }
    }
}

fn measures(belongs: Belongs) -> Measures {
    Measures::new(belongs, Objectives::default()).unwrap()
}

fn near(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() <= 0.002 * expected,
        "{found}, not {expected}"
    );
}

fn finished() -> End {
    End::Finished(Box::new(FinishInfo {
        speculative_decoding: Some(SpeculativeDecoding {
            num_drafts: 2,
            num_draft_tokens: 8,
            num_accepted_tokens: 6,
            plain_rounds: vec![PlainRoundCount {
                reason: PlainReason::Late.into(),
                count: 3,
            }],
            ..SpeculativeDecoding::default()
        }),
        ..FinishInfo::default()
    }))
}

#[test]
fn percentiles_are_those_of_the_samples() {
    let mut times = Times::new().unwrap();
    assert!(times.percentiles().is_none());
    for millisecond in 1..=1000 {
        times.add(Duration::from_millis(millisecond), 1);
    }
    let found = times.percentiles().unwrap();
    near(found.p50, 0.5);
    near(found.p90, 0.9);
    near(found.p99, 0.99);
    let mut slow = Times::new().unwrap();
    slow.add(Duration::from_secs(2), 1000);
    times.merge(&slow).unwrap();
    near(times.percentiles().unwrap().p50, 1.0);
    near(times.percentiles().unwrap().p90, 2.0);
}

#[test]
fn a_message_of_several_tokens_is_as_many_gaps_of_equal_length() {
    let clock = Clock::new();
    let mut measures = measures(Belongs::ByEnd);
    // First token after 100 ms, one after 20 ms more, then four after 80 ms more.
    let outcome = clock.outcome(&[(100, 1), (120, 1), (200, 4)], 210, finished());
    measures.add(&outcome, &clock.window(0, 1000));
    near(measures.ttft.percentiles().unwrap().p99, 0.1);
    let itl = measures.itl.percentiles().unwrap();
    near(itl.p50, 0.02);
    near(itl.p99, 0.02);
    near(measures.e2e.percentiles().unwrap().p50, 0.21);
    assert_eq!((measures.tokens, measures.finished), (6, 1));
    assert_eq!(measures.itl.0.len(), 5);
    assert_eq!(measures.drafting.acceptance(), Some(0.75));
    assert_eq!(measures.drafting.plain_rounds["LATE"], 3);
}

#[test]
fn tokens_are_counted_by_their_arrival_and_calls_by_end_or_by_due_time() {
    let clock = Clock::new();
    let messages = [(100, 1), (200, 1), (300, 1), (400, 1)];
    let outcome = || clock.outcome(&messages, 410, finished());
    for (belongs, window, tokens, calls) in [
        (Belongs::ByEnd, clock.window(150, 350), 2, 0),
        (Belongs::ByEnd, clock.window(350, 500), 1, 1),
        (Belongs::ByDue, clock.window(0, 250), 2, 1),
        (Belongs::ByDue, clock.window(50, 500), 4, 0),
    ] {
        let mut measures = measures(belongs);
        measures.add(&outcome(), &window);
        let found = (measures.tokens, measures.good_tokens, measures.finished);
        assert_eq!(found, (tokens, tokens, calls), "{belongs:?}");
        // Sums over everything know no window.
        assert_eq!(measures.totals.generated_tokens, 4);
    }
}

#[test]
fn refusals_errors_and_wrong_answers_are_told_apart() {
    let clock = Clock::new();
    let window = clock.window(0, 1000);
    let mut measures = measures(Belongs::ByEnd);
    let ends = [
        End::Refused(Some(Duration::from_secs(1))),
        End::Refused(None),
        End::Failed(Code::DeadlineExceeded, "late".to_owned()),
        End::Failed(Code::Unavailable, "gone".to_owned()),
        End::Wrong("token 3 came twice".to_owned()),
    ];
    for end in ends {
        measures.add(&clock.outcome(&[], 30, end), &window);
    }
    assert_eq!(
        (measures.rejected, measures.rejected_with_retry_info),
        (2, 1)
    );
    near(measures.refusal.percentiles().unwrap().p99, 0.03);
    let errors: Vec<_> = measures.errors.iter().collect();
    let one = |name: &str| (name.to_owned(), 1);
    let expected = ["DATA_LOSS", "DEADLINE_EXCEEDED", "UNAVAILABLE"].map(one);
    assert!(
        errors
            .into_iter()
            .eq(expected.iter().map(|(name, count)| (name, count)))
    );
    assert_eq!((measures.failed(), measures.ended()), (3, 5));
    assert_eq!(measures.first_error.as_deref(), Some("late"));
    assert_eq!(measures.wrong, 1);
    assert_eq!(measures.totals.rejected, 2);
}

#[test]
fn only_what_keeps_the_objectives_is_good() {
    let clock = Clock::new();
    let window = clock.window(0, 1000);
    // 100 ms to the first token, then 4 tokens in 200 ms.
    let outcome = || clock.outcome(&[(100, 1), (150, 1), (300, 3)], 310, finished());
    let good = |ttft: Option<u64>, itl: Option<u64>| {
        let objectives = Objectives {
            ttft: ttft.map(Duration::from_millis),
            itl: itl.map(Duration::from_millis),
        };
        let mut measures = Measures::new(Belongs::ByEnd, objectives).unwrap();
        measures.add(&outcome(), &window);
        assert_eq!((measures.tokens, measures.finished), (5, 1));
        measures.good_tokens == 5 && measures.good == 1
    };
    assert!(good(None, None) && good(Some(100), Some(50)));
    assert!(!good(Some(99), None) && !good(None, Some(49)));
    let mut failed = measures(Belongs::ByEnd);
    let end = End::Failed(Code::Unavailable, "gone".to_owned());
    failed.add(&clock.outcome(&[(100, 3)], 110, end), &window);
    assert_eq!((failed.tokens, failed.good_tokens), (3, 0));
}

#[test]
fn windows_add_up() {
    let clock = Clock::new();
    let window = clock.window(0, 1000);
    let mut sum = measures(Belongs::ByEnd);
    for _ in 0..3 {
        let mut one = measures(Belongs::ByEnd);
        one.add(
            &clock.outcome(&[(100, 1), (200, 1)], 210, finished()),
            &window,
        );
        one.add(&clock.outcome(&[], 30, End::Refused(None)), &window);
        sum.merge(&one).unwrap();
    }
    assert_eq!((sum.tokens, sum.finished, sum.rejected), (6, 3, 3));
    assert_eq!((sum.drafting.drafted, sum.totals.draft_tokens), (24, 24));
    assert_eq!(sum.itl.0.len(), 3);
}
