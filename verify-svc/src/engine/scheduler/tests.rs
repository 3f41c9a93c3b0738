//! Steps by hand, with the demo model.

use super::*;
use crate::engine::{
    Desk, DraftRequest, EngineLimits, EventReceiver, EventSender, GenerateRequest, ScoreRequest,
    StopRules, generation::Generation,
};
use dssd_common::{
    sampling::SamplingParams,
    serve::{ClientId, DeviceName, Dtype, ModelSettings, open_model},
};
use std::sync::{Arc, mpsc};
use tokio::sync::oneshot;

const LIMITS: EngineLimits = EngineLimits {
    max_sequences: 8,
    max_step_rows: 64,
    max_prefill_rows: 24,
    max_queue: 0,
    max_queue_wait: Duration::ZERO,
    read_timeout: Duration::MAX,
    free_rows: 8,
};

/// A scheduler that steps when it is told to, and where commands to it arrive.
pub(super) struct ByHand {
    pub(super) scheduler: Scheduler,
    inbox: Receiver<Command>,
}

impl ByHand {
    pub(super) fn new() -> Self {
        let (checkpoint, _) = open_model(None).unwrap();
        let layers = checkpoint.config().layers;
        let model = ModelSettings {
            device: DeviceName::Cpu,
            threads: Some(1),
            dtype: Dtype::Auto,
            kv_memory: None,
            preallocate_kv: false,
            max_sequences: LIMITS.max_sequences,
            max_context: None,
            band_ends: vec![layers],
        };
        let model = model.load(&checkpoint).unwrap();
        let (commands, inbox) = mpsc::channel();
        let desk = Desk::new(&LIMITS, &model.kv, commands.clone(), Arc::default());
        let handle = EngineHandle {
            commands,
            desk: Arc::new(desk),
            max_queue_wait: LIMITS.max_queue_wait,
        };
        let parts = EngineParts {
            decoder: model.decoder,
            kv: model.kv,
            tokenizer: None,
            drafters: None,
            prefix_cache: true,
            limits: LIMITS,
            metrics: Arc::default(),
        };
        Self {
            scheduler: Scheduler::new(parts, handle),
            inbox,
        }
    }

    /// Starts a generation of `prompt`.
    pub(super) fn generate(&mut self, prompt: Vec<u32>, max_new_tokens: usize) -> EventReceiver {
        self.generate_for(ClientId::default(), prompt, max_new_tokens)
    }

    pub(super) fn generate_for(
        &mut self,
        client: ClientId,
        prompt: Vec<u32>,
        max_new_tokens: usize,
    ) -> EventReceiver {
        let (events, received) = EventSender::new();
        self.enter(GenerateRequest {
            client,
            ..self.request(prompt, max_new_tokens, events)
        });
        received
    }

    fn request(
        &self,
        prompt: Vec<u32>,
        max_new_tokens: usize,
        events: EventSender,
    ) -> GenerateRequest {
        GenerateRequest {
            client: ClientId::default(),
            request_id: format!("{}", self.scheduler.generations.len()),
            prompt,
            cache_salt: String::new(),
            resumed: Vec::new(),
            sampling: SamplingParams::default(),
            max_new_tokens,
            stops: StopRules::default(),
            logprobs: None,
            draft: None,
            early_exit: None,
            trace: false,
            deadline: None,
            events,
            call: Arc::default(),
        }
    }

    fn enter(&mut self, request: GenerateRequest) {
        let (reply, _) = oneshot::channel();
        let desk = Arc::clone(&self.scheduler.handle.desk);
        desk.enter_generate(request, reply).unwrap();
        self.take_commands();
    }

    pub(super) fn score(
        &mut self,
        tokens: Vec<u32>,
    ) -> oneshot::Receiver<crate::Result<crate::engine::Score>> {
        let (reply, answer) = oneshot::channel();
        let request = ScoreRequest {
            client: ClientId::default(),
            tokens,
            first_index: 1,
            top: 0,
            early_exit: None,
            arrived: std::time::Instant::now(),
            deadline: None,
            reply,
        };
        let desk = Arc::clone(&self.scheduler.handle.desk);
        desk.enter_score(request).unwrap();
        self.take_commands();
        answer
    }

    fn take_commands(&mut self) {
        assert!(self.scheduler.receive(&self.inbox, &Wake::Now));
    }

    /// Runs a step.
    pub(super) fn step(&mut self) {
        self.scheduler.step();
    }

    /// Positions that each generation holds, in the order in which they began.
    fn held(&self) -> Vec<usize> {
        let held = |g: &Generation| self.scheduler.parts.kv.len(g.sequence, 0);
        self.scheduler.generations.iter().map(held).collect()
    }
}

fn tokens(events: &mut EventReceiver) -> usize {
    let mut count = 0;
    while let Ok(event) = events.try_recv() {
        if let Event::Tokens(tokens) = event {
            count += tokens.token_ids.len();
        }
    }
    count
}

fn prompt(length: u32) -> Vec<u32> {
    (0..length).map(|i| 7 + i % 50).collect()
}

#[test]
fn a_long_prompt_does_not_hold_up_the_tokens_of_others() {
    let mut engine = ByHand::new();
    let mut running = engine.generate(prompt(5), 100);
    engine.step();
    assert_eq!(tokens(&mut running), 1, "the prompt's pass gives a token");
    let mut long = engine.generate(prompt(240), 10);
    for step in 1..=10 {
        engine.step();
        assert_eq!(tokens(&mut running), 1, "step {step}");
        assert_eq!(engine.held()[1], 24 * step, "a bounded part of the prompt");
    }
    assert_eq!(tokens(&mut long), 1);
}

#[test]
fn prompts_share_what_a_step_fills() {
    let mut engine = ByHand::new();
    let _running = engine.generate(prompt(5), 100);
    engine.step();
    let others = (1..4).map(|start| prompt(500 + start).split_off(start as usize));
    let _long: Vec<_> = others.map(|p| engine.generate(p, 10)).collect();
    let mut short = engine.generate(prompt(6), 10);
    engine.step();
    assert_eq!(tokens(&mut short), 1, "a share of 24 rows is enough for it");
    for _ in 0..11 {
        engine.step();
    }
    let held = engine.held();
    let (least, most) = (held[1..4].iter().min(), held[1..4].iter().max());
    assert!(most.unwrap() - least.unwrap() <= 2, "{held:?}");
    assert!(held[1..4].iter().sum::<usize>() >= 12 * 24 - 6, "{held:?}");
}

#[test]
fn a_prompt_alone_fills_whole_steps() {
    let mut engine = ByHand::new();
    let _alone = engine.generate(prompt(640), 10);
    for _ in 0..9 {
        engine.step();
    }
    assert_eq!(engine.held(), [576]);
}

#[test]
fn scoring_and_prompts_share_too_and_neither_starves() {
    let mut engine = ByHand::new();
    let _running = engine.generate(prompt(5), 100);
    engine.step();
    let _long = engine.generate(prompt(500), 10);
    let mut score = engine.score(prompt(101));
    for _ in 0..8 {
        engine.step();
    }
    assert_eq!(engine.held()[1], 8 * 12);
    assert!(score.try_recv().is_err());
    engine.step();
    assert_eq!(score.try_recv().unwrap().unwrap().logprobs.len(), 100);
}

#[test]
fn equal_prompts_that_come_together_are_computed_once() {
    let mut engine = ByHand::new();
    let mut all: Vec<_> = (0..4).map(|_| engine.generate(prompt(165), 3)).collect();
    for _ in 0..6 {
        engine.step();
    }
    assert!(all.iter_mut().all(|events| tokens(events) > 0));
    // Three of them, each but for what a last block of 165 tokens lacks.
    assert_eq!(engine.scheduler.parts.kv.reused_tokens(), 3 * 160);
}

#[test]
fn clients_share_nothing() {
    let mut engine = ByHand::new();
    for client in [b"one", b"two"] {
        let client = ClientId::of_token(client);
        let _events = engine.generate_for(client, prompt(100), 3);
        (0..4).for_each(|_| engine.step());
        assert_eq!(engine.scheduler.parts.kv.reused_tokens(), 0);
    }
}

#[test]
fn there_is_room_for_drafts_alone_but_not_in_a_moment_alone() {
    let mut engine = ByHand::new();
    engine.scheduler.parts.limits.free_rows = 2;
    let drafted = |engine: &mut ByHand, tokens: usize| {
        let (events, received) = EventSender::new();
        let draft = DraftRequest {
            open: v1::Open::default(),
            max_draft_tokens: 8,
            adaptive: true,
        };
        engine.enter(GenerateRequest {
            draft: Some(draft),
            ..engine.request(prompt(5), tokens, events)
        });
        received
    };
    let _stays = drafted(&mut engine, 200);
    engine.step();
    assert_eq!(engine.scheduler.draft_room(0), 8);
    for _ in 0..5 {
        let _goes = drafted(&mut engine, 10);
        assert_eq!(engine.scheduler.draft_room(0), 0, "two share two rows");
        (0..20).for_each(|_| engine.step());
        assert_eq!(engine.scheduler.generations.len(), 1);
        assert_eq!(engine.scheduler.draft_room(0), 0, "the next one may come");
    }
    (0..32).for_each(|_| engine.step());
    assert_eq!(engine.scheduler.draft_room(0), 8, "none came");
}
