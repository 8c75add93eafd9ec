use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};

use super::{
    phase::{InvalidPhase, Phase, Refusal, TroubleKind},
    record::{Record, Stats, TimeLine},
    schedule::{Rules, Schedule},
    service_time::ServiceTime,
    throttle::{self, Answered, Room, Throttle},
};

/// The upstream without its sockets.
#[derive(Debug)]
pub(super) struct Engine {
    service: ServiceTime,
    state: Mutex<State>,
    /// Whether nothing is to listen.
    pub(super) outage: watch::Sender<bool>,
    /// The end of the phase has changed.
    turned: Notify,
}

#[derive(Debug)]
struct State {
    schedule: Schedule,
    rng: StdRng,
    throttle: Throttle,
    record: Record,
}

/// What one request meets, drawn when it arrives.
#[derive(Debug)]
pub(super) struct Order {
    rules: Arc<Rules>,
    service: Duration,
    pub(super) trouble: Option<TroubleKind>,
    processed: AtomicBool,
}

impl Order {
    /// Whether it was given a slot, and its service has ended.
    pub(super) fn is_processed(&self) -> bool {
        self.processed.load(Ordering::Relaxed)
    }

    /// What is said to it if it finds no slot.
    pub(super) fn refusal(&self) -> &Refusal {
        &self.rules.refusal
    }
}

impl Engine {
    pub(super) fn new(schedule: Schedule, service: ServiceTime, seed: u64) -> Self {
        let rules = Arc::clone(schedule.rules());
        let engine = Self {
            service,
            state: Mutex::new(State {
                throttle: Throttle::new(room(&rules)),
                schedule,
                rng: StdRng::seed_from_u64(seed),
                record: Record::default(),
            }),
            outage: watch::Sender::new(rules.outage),
            turned: Notify::new(),
        };
        engine.turn(|_, _| ());
        engine
    }

    /// A request has arrived.
    pub(super) fn arrive(&self) -> Arc<Order> {
        self.turn(|state, now| {
            let rules = state.schedule.arrive(now);
            state.record.counts.attempts += 1;
            let service = self.service.sample(&mut state.rng);
            let trouble = rules.trouble(state.rng.random()).cloned();
            match trouble {
                Some(TroubleKind::Answer(_)) => state.record.counts.failures += 1,
                Some(TroubleKind::Hang) => state.record.counts.unanswered += 1,
                _ => {}
            }
            Arc::new(Order {
                rules,
                service,
                trouble,
                processed: AtomicBool::new(false),
            })
        })
    }

    /// Gives the request with these headers a slot, at once or in its turn, or
    /// the answer that rejects it.
    pub(super) async fn admit(self: &Arc<Self>, headers: &HeaderMap) -> Result<Place, Answered> {
        let mut place = Place {
            engine: Arc::clone(self),
            slot: None,
            since: Instant::now(),
        };
        let asked = self.turn(|state, _| state.throttle.ask(headers));
        let Ok(answer) = asked.await;
        if throttle::is_rejected(&answer) {
            self.lock().record.counts.rejections += 1;
            return Err(answer);
        }
        // its time runs from the moment at which the slot was given
        place.since += throttle::waited(&answer);
        place.slot = Some(answer);
        Ok(place)
    }

    /// Plays the story for as long as it is polled.
    pub(super) async fn direct(&self) {
        loop {
            let end = self.lock().schedule.end();
            let phase = async {
                match end {
                    Some(end) => time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = phase => self.turn(|state, now| state.schedule.advance(now)),
                () = self.turned.notified() => {}
            }
        }
    }

    pub(super) fn play(&self, phase: Phase) -> Result<(), InvalidPhase> {
        phase.check()?;
        self.turn(|state, now| state.schedule.play(phase, now));
        Ok(())
    }

    pub(super) fn set_slots(&self, slots: usize) {
        self.turn(|state, _| state.schedule.set_slots(slots));
    }

    pub(super) fn connected(&self) {
        self.lock().record.counts.connections += 1;
    }

    pub(super) fn store(&self, ids: Vec<String>) {
        self.lock().record.store(ids);
    }

    pub(super) fn stored(&self, id: &str) -> u64 {
        self.lock().record.stored(id)
    }

    pub(super) fn ids(&self, limit: usize) -> Vec<String> {
        self.lock().record.ids().take(limit).cloned().collect()
    }

    pub(super) fn stats(&self) -> Stats {
        self.lock().record.counts.clone()
    }

    pub(super) fn time_line(&self) -> TimeLine {
        self.lock().record.line.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then does what follows from the change.
    fn turn<T>(&self, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut guard = self.lock();
        let state = &mut *guard;
        let now = Instant::now();
        let end = state.schedule.end();
        let result = change(state, now);

        let rules = state.schedule.rules();
        state.throttle.set(room(rules));
        state.record.note(&state.throttle, state.schedule.at(now));
        self.outage
            .send_if_modified(|outage| std::mem::replace(outage, rules.outage) != rules.outage);
        if state.schedule.end() != end {
            self.turned.notify_one();
        }
        result
    }
}

fn room(rules: &Rules) -> Room {
    Room {
        slots: rules.capacity(),
        queue: rules.refusal.queue,
    }
}

/// A slot, once there is one; dropping it gives it up.
#[derive(Debug)]
pub(super) struct Place {
    engine: Arc<Engine>,
    slot: Option<Answered>,
    since: Instant,
}

impl Place {
    /// Takes the time the order says, frees the slot, and stores the ids: from
    /// here on the request has been processed, whatever becomes of its answer.
    pub(super) async fn serve(self, order: &Order, ids: Vec<String>) {
        time::sleep(order.service.saturating_sub(self.since.elapsed())).await;
        let engine = Arc::clone(&self.engine);
        {
            let record = &mut engine.lock().record;
            record.counts.slot_time += self.since.elapsed();
            record.store(ids);
        }
        order.processed.store(true, Ordering::Relaxed);
        drop(self);
        // even a sleep of no length lasts until the timer's next millisecond
        if !order.rules.delay.is_zero() {
            time::sleep(order.rules.delay).await;
        }
        let counts = &mut engine.lock().record.counts;
        match order.trouble {
            None => counts.successes += 1,
            Some(_) => counts.unanswered += 1,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.slot.take());
        self.engine.turn(|_, _| ());
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::upstream::{Story, Trouble};

    const MILLIS: Duration = Duration::from_millis(1);

    fn engine(slots: usize, refusal: Refusal, phases: Vec<Phase>) -> Arc<Engine> {
        let story = Story::new(phases).unwrap();
        let schedule = Schedule::new(Rules::plain(slots, refusal), story, Instant::now());
        let service = ServiceTime::constant(20 * MILLIS);
        Arc::new(Engine::new(schedule, service, 7))
    }

    async fn request(engine: &Arc<Engine>, id: &str) -> Result<(), Answered> {
        let order = engine.arrive();
        let place = engine.admit(&HeaderMap::new()).await?;
        place.serve(&order, vec![id.to_owned()]).await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn requests_above_the_slots_are_refused() {
        let engine = engine(1, Refusal::default(), vec![]);
        let (first, second) = tokio::join!(request(&engine, "a"), request(&engine, "b"));
        first.unwrap();
        let refused = second.unwrap_err();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        let stats = engine.stats();
        assert_eq!(
            (stats.attempts, stats.successes, stats.rejections),
            (2, 1, 1)
        );
        assert_eq!((stats.distinct_ids, stats.in_flight), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn slot_time_is_service_and_not_waiting() {
        let queue = Refusal {
            queue: 1,
            ..Refusal::default()
        };
        let engine = engine(1, queue, vec![]);
        let began = Instant::now();
        let (first, second) = tokio::join!(request(&engine, "a"), request(&engine, "b"));
        first.and(second).unwrap();
        assert_eq!(began.elapsed(), 40 * MILLIS);
        let stats = engine.stats();
        assert_eq!((stats.slot_time, stats.peak_in_flight), (40 * MILLIS, 2));
        let ideal = engine.time_line().ideal_time(stats.slot_time);
        assert_eq!(ideal, Some(40 * MILLIS));
    }

    #[tokio::test(start_paused = true)]
    async fn slots_are_had_in_turn_and_served_to_the_end() {
        let queue = Refusal {
            queue: 3,
            ..Refusal::default()
        };
        let engine = engine(2, queue, vec![]);
        let began = Instant::now();
        let ends = ["a", "b", "c", "d"].map(|id| {
            let engine = Arc::clone(&engine);
            async move {
                request(&engine, id).await.unwrap();
                began.elapsed().as_millis()
            }
        });
        let slots = async {
            time::sleep(10 * MILLIS).await;
            engine.set_slots(0);
            assert_eq!(engine.stats().in_flight, 4);
            time::sleep(40 * MILLIS).await;
            assert_eq!(engine.stats().in_flight, 2);
            engine.set_slots(1);
        };
        let [a, b, c, d] = ends;
        let (a, b, c, d, ()) = tokio::join!(a, b, c, d, slots);
        assert_eq!([a, b, c, d], [20, 20, 70, 90]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_given_up_frees_its_place() {
        let queue = Refusal {
            queue: 1,
            ..Refusal::default()
        };
        let engine = engine(1, queue, vec![]);
        {
            let mut served = std::pin::pin!(request(&engine, "a"));
            let mut waiting = std::pin::pin!(request(&engine, "b"));
            tokio::select! {
                biased;
                _ = &mut served => unreachable!("it takes 20 ms"),
                _ = &mut waiting => unreachable!("it has no slot"),
                () = time::sleep(MILLIS) => {}
            }
            assert_eq!(engine.stats().in_flight, 2);
        }
        let stats = engine.stats();
        assert_eq!(
            (stats.in_flight, stats.attempts, stats.successes),
            (0, 2, 0)
        );
        assert_eq!(stats.slot_time, Duration::ZERO);
        request(&engine, "c").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_capacity_follows_the_story_by_itself() {
        let phase = |slots, lasts| Phase {
            slots: Some(slots),
            lasts: Some(lasts),
            ..Phase::default()
        };
        let story = vec![
            phase(8, 100 * MILLIS),
            phase(2, 50 * MILLIS),
            Phase::outage(30 * MILLIS),
        ];
        let engine = engine(4, Refusal::default(), story);
        let director = Arc::clone(&engine);
        let director = tokio::spawn(async move { director.direct().await });
        time::sleep(Duration::from_secs(5)).await;
        request(&engine, "a").await.unwrap();
        time::sleep(Duration::from_secs(5)).await;
        director.abort();

        let line = engine.time_line().capacity;
        let points: Vec<_> = line
            .iter()
            .map(|point| (point.at.as_millis(), point.value))
            .collect();
        assert_eq!(points, [(0, 8), (100, 2), (150, 0), (180, 4)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_holds_the_answer_and_not_the_slot() {
        let slow = Phase {
            delay: 100 * MILLIS,
            ..Phase::default()
        };
        let engine = engine(1, Refusal::default(), vec![slow]);
        let began = Instant::now();
        let later = async {
            time::sleep(30 * MILLIS).await;
            request(&engine, "b").await
        };
        let (first, second) = tokio::join!(request(&engine, "a"), later);
        first.and(second).unwrap();
        assert_eq!(began.elapsed(), 150 * MILLIS);
        assert_eq!(engine.stats().slot_time, 40 * MILLIS);
    }

    #[tokio::test(start_paused = true)]
    async fn one_seed_gives_one_run() {
        let drawn = |seed| {
            let phase = Phase {
                troubles: vec![Trouble {
                    kind: TroubleKind::Hang,
                    rate: 0.3,
                }],
                ..Phase::default()
            };
            let story = Story::new(vec![phase]).unwrap();
            let rules = Rules::plain(1, Refusal::default());
            let service = ServiceTime::log_normal(20 * MILLIS, 0.3).unwrap();
            let engine = Engine::new(Schedule::new(rules, story, Instant::now()), service, seed);
            let orders: Vec<_> = (0..1000).map(|_| engine.arrive()).collect();
            let hung = orders
                .iter()
                .filter(|order| order.trouble.is_some())
                .count();
            assert_eq!(engine.stats().unanswered, hung as u64);
            // four standard deviations of 1,000 draws at 0.3
            assert!((242..=358).contains(&hung), "{hung}");
            orders
                .iter()
                .map(|order| (order.service, order.trouble.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }
}
