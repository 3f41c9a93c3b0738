use super::*;
use crate::engine::{Event, EventReceiver, EventSender, StopRules};
use dssd_common::sampling::SamplingParams;
use prometheus_client::{encoding::text::encode, registry::Registry};

fn client(name: &str) -> ClientId {
    ClientId::of_token(name.as_bytes())
}

/// A desk for sequences of up to 16 positions, and what it sends to the engine.
struct Engine {
    desk: Arc<Desk>,
    inbox: mpsc::Receiver<Command>,
    /// As the engine holds them.
    running: Vec<(Box<GenerateRequest>, Place)>,
}

/// One that asked: its ticket, its answer, its events.
struct Asked {
    ticket: Ticket,
    answer: oneshot::Receiver<Result<()>>,
    events: EventReceiver,
}

impl Engine {
    fn new(max_sequences: usize, blocks: usize, max_queue: usize) -> Self {
        let layout = KvLayout {
            kv_heads: 1,
            head_dim: 4,
            hidden: 4,
            band_ends: vec![1],
        };
        let bytes = blocks * layout.block_bytes();
        let kv = KvCache::new(layout, bytes).unwrap();
        let limits = EngineLimits {
            max_sequences,
            max_step_rows: 8,
            max_prefill_rows: 8,
            max_queue,
            max_queue_wait: Duration::ZERO,
            read_timeout: Duration::MAX,
            free_rows: 8,
        };
        let (commands, inbox) = mpsc::channel();
        Self {
            desk: Arc::new(Desk::new(&limits, &kv, commands, Arc::default())),
            inbox,
            running: Vec::new(),
        }
    }

    fn look(&self, who: &str) -> Result<()> {
        self.desk.look(client(who), Instant::now())
    }

    /// Requests without room that were refused after so many seconds and less.
    fn refused_within(&self, seconds: &str) -> u64 {
        let mut registry = Registry::default();
        self.desk.metrics.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let name = format!("refusal_delay_seconds_bucket{{le=\"{seconds}\"}} ");
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix(&name));
        count.unwrap().parse().unwrap()
    }

    fn ask_of(&self, who: &str, id: &str, blocks: usize) -> Result<Asked> {
        let (events, received) = EventSender::new();
        let (reply, answer) = oneshot::channel();
        let request = GenerateRequest {
            client: client(who),
            request_id: id.to_owned(),
            prompt: vec![1],
            cache_salt: String::new(),
            resumed: Vec::new(),
            sampling: SamplingParams::default(),
            max_new_tokens: 16 * blocks - 1,
            stops: StopRules::default(),
            logprobs: None,
            draft: None,
            early_exit: None,
            trace: false,
            deadline: None,
            events,
            call: Arc::default(),
        };
        let ticket = self.desk.enter_generate(request, reply)?;
        Ok(Asked {
            ticket,
            answer,
            events: received,
        })
    }

    fn ask(&self, id: &str) -> Result<Asked> {
        self.ask_of("a", id, 1)
    }

    /// Takes what the desk let in; returns the names.
    fn take(&mut self) -> Vec<String> {
        let commands: Vec<Command> = self.inbox.try_iter().collect();
        let admitted = commands.into_iter().map(|command| match command {
            Command::Generate(request, place, _) => (request, place),
            _ => panic!("only generations were asked for"),
        });
        let before = self.running.len();
        self.running.extend(admitted);
        let new = self.running[before..].iter();
        new.map(|(request, _)| request.request_id.clone()).collect()
    }

    fn end(&mut self, id: &str) {
        self.running.retain(|(request, _)| request.request_id != id);
    }
}

fn retry(refused: Result<Asked>) -> Duration {
    match refused.err().unwrap() {
        Error::NoRoom { retry, .. } => retry,
        other => panic!("{other}"),
    }
}

#[test]
fn who_finds_no_room_waits_until_a_place_is_given_back() {
    let mut engine = Engine::new(1, 9, 2);
    let asked: Vec<_> = ["x", "y", "z"].iter().map(|id| engine.ask(id)).collect();
    assert!(asked.iter().all(Result::is_ok));
    assert_eq!(engine.take(), ["x"]);
    assert_eq!(engine.desk.load(), (1, 2, 8));
    let delay = retry(engine.ask("full"));
    assert!((1..=60).contains(&delay.as_secs()), "{delay:?}");
    engine.end("x");
    assert_eq!(engine.take(), ["y"]);
    engine.end("y");
    engine.end("unknown");
    assert_eq!(engine.take(), ["z"]);
    engine.end("z");
    assert_eq!(engine.desk.load(), (0, 0, 9));
}

#[test]
fn blocks_are_room_too_and_what_never_fits_is_refused_at_once() {
    let mut engine = Engine::new(9, 4, 9);
    let _a = engine.ask_of("a", "three", 3).unwrap();
    let _b = engine.ask_of("b", "large", 4).unwrap();
    let _c = engine.ask_of("c", "small", 1).unwrap();
    assert_eq!(engine.take(), ["three"], "small may not overtake large");
    let never = engine.ask_of("d", "never", 5).err().unwrap();
    assert!(matches!(&never, Error::InvalidField { field, .. } if field == "max_new_tokens"));
    engine.end("three");
    assert_eq!(engine.take(), ["large"]);
    engine.end("large");
    assert_eq!(engine.take(), ["small"]);
}

#[test]
fn a_flood_of_one_client_leaves_places_to_another() {
    let mut engine = Engine::new(1, 9, 3);
    let mut flood: Vec<_> = (0..4)
        .map(|i| engine.ask(&format!("a{i}")).unwrap())
        .collect();
    assert!(engine.look("a").is_err());
    engine.look("b").unwrap();
    let _other = engine.ask_of("b", "b0", 1).unwrap();
    let pushed_out = flood.pop().unwrap().answer.try_recv().unwrap();
    assert!(matches!(pushed_out, Err(Error::NoRoom { .. })));
    let mut order = engine.take();
    for _ in 0..3 {
        let last = order.last().unwrap().clone();
        engine.end(&last);
        order.extend(engine.take());
    }
    assert_eq!(order, ["a0", "a1", "b0", "a2"]);
}

#[test]
fn names_are_in_use_while_waiting_and_free_after_a_cancellation() {
    let mut engine = Engine::new(1, 9, 9);
    let running = engine.ask("x").unwrap();
    engine.take();
    let waiting = engine.ask("y").unwrap();
    for taken in ["x", "y"] {
        let error = engine.ask(taken).err().unwrap();
        assert!(matches!(error, Error::RequestIdInUse(_)), "{error}");
    }
    let _other = engine.ask_of("b", "x", 1).unwrap();
    drop(waiting);
    assert_eq!(engine.desk.load().1, 1, "it waits no longer");
    let _again = engine.ask("y").unwrap();
    // The engine does not know yet that nobody listens.
    drop(running.events);
    let _anew = engine.ask("x").unwrap();
    engine.running.clear();
    let error = engine.ask("x").err().unwrap();
    assert!(matches!(error, Error::RequestIdInUse(_)), "{error}");
}

#[test]
fn waiting_ones_are_aborted_refused_when_late_and_refused_by_a_drain() {
    let mut engine = Engine::new(1, 9, 9);
    let _running = engine.ask("x").unwrap();
    engine.take();
    let mut aborted = engine.ask("y").unwrap();
    let late = engine.ask("z").unwrap();
    let mut drained = engine.ask("w").unwrap();
    assert!(
        !engine.desk.abort(client("b"), "y"),
        "another client's name"
    );
    assert!(!engine.desk.abort(client("a"), "x"), "the engine ends it");
    assert!(engine.desk.abort(client("a"), "y"));
    aborted.answer.try_recv().unwrap().unwrap();
    let Ok(Event::Finished(info)) = aborted.events.try_recv() else {
        panic!("it is finished");
    };
    assert_eq!(info.finish_reason(), dssd_proto::v1::FinishReason::Aborted);
    let refusal = engine.desk.give_up(&late.ticket).unwrap();
    assert!(matches!(refusal, Error::NoRoom { .. }), "{refusal}");
    assert!(engine.desk.give_up(&late.ticket).is_none());
    engine.desk.drain();
    let refused = drained.answer.try_recv().unwrap();
    assert!(matches!(refused, Err(Error::Draining)));
    assert!(matches!(engine.ask("v").err().unwrap(), Error::Draining));
    assert!(matches!(engine.look("a"), Err(Error::Draining)));
}

#[test]
fn how_late_refusals_come_is_counted_from_when_they_were_due() {
    let engine = Engine::new(1, 9, 1);
    let _running = engine.ask("x").unwrap();
    let cancelled = engine.ask("y").unwrap();
    drop(cancelled);
    assert_eq!(engine.refused_within("+Inf"), 0, "nobody is told");
    let late = engine.ask("y").unwrap();
    let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
    engine.desk.look(client("a"), long_ago).unwrap_err();
    assert_eq!(engine.refused_within("0.5"), 0);
    assert_eq!(engine.refused_within("+Inf"), 1);
    engine.ask("z").err().unwrap();
    engine.desk.give_up(&late.ticket).unwrap();
    assert!(engine.desk.give_up(&late.ticket).is_none());
    assert_eq!(engine.refused_within("+Inf"), 3);
}

#[test]
fn an_engine_that_has_ended_takes_no_place() {
    let Engine { desk, inbox, .. } = Engine::new(1, 9, 9);
    drop(inbox);
    let engine = Engine {
        desk,
        inbox: mpsc::channel().1,
        running: Vec::new(),
    };
    let mut asked: Vec<_> = (0..3)
        .map(|i| engine.ask(&format!("{i}")).unwrap())
        .collect();
    assert!(asked.iter_mut().all(|a| a.answer.try_recv().is_err()));
    assert_eq!(engine.desk.load(), (0, 0, 9));
}
