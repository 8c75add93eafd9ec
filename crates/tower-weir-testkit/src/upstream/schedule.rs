use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    phase::{Phase, Refusal, Trouble, TroubleKind},
    story::Story,
};

/// What holds at a moment: the phase over what the builder has.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rules {
    pub(super) slots: usize,
    pub(super) refusal: Refusal,
    pub(super) delay: Duration,
    pub(super) outage: bool,
    troubles: Vec<Trouble>,
}

impl Rules {
    /// An upstream without a phase.
    pub(super) fn plain(slots: usize, refusal: Refusal) -> Self {
        Self {
            slots,
            refusal,
            delay: Duration::ZERO,
            outage: false,
            troubles: Vec::new(),
        }
    }

    fn under(&self, phase: Phase) -> Self {
        Self {
            slots: phase.slots.unwrap_or(self.slots),
            refusal: phase.refusal.unwrap_or(self.refusal),
            delay: phase.delay,
            outage: phase.outage,
            troubles: phase.troubles,
        }
    }

    /// How many requests can be served at once.
    pub(super) fn capacity(&self) -> usize {
        if self.outage { 0 } else { self.slots }
    }

    /// The trouble that falls to a request that drew `lot`, from 0 up to 1.
    pub(super) fn trouble(&self, lot: f64) -> Option<&TroubleKind> {
        let mut below = 0.0;
        self.troubles.iter().find_map(|trouble| {
            below += trouble.rate;
            (lot < below).then_some(&trouble.kind)
        })
    }
}

/// Where in its story the upstream is.
#[derive(Debug)]
pub(super) struct Schedule {
    plain: Rules,
    rules: Arc<Rules>,
    ahead: VecDeque<Phase>,
    lasts: Option<Duration>,
    left: Option<u64>,
    since: Option<Instant>,
    began: Option<Instant>,
}

impl Schedule {
    pub(super) fn new(plain: Rules, story: Story, now: Instant) -> Self {
        let mut schedule = Self {
            rules: Arc::new(plain.clone()),
            plain,
            ahead: story.into_phases().into(),
            lasts: None,
            left: None,
            since: None,
            began: None,
        };
        schedule.next();
        if schedule.rules.outage {
            schedule.begin(now);
        }
        schedule
    }

    pub(super) fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// A request has arrived: begins the story, and tells what holds for it.
    pub(super) fn arrive(&mut self, now: Instant) -> Arc<Rules> {
        self.begin(now);
        self.advance(now);
        if self.left == Some(0) {
            self.since = Some(now);
            self.next();
        }
        self.left = self.left.map(|left| left - 1);
        Arc::clone(&self.rules)
    }

    /// Goes on to the phase that holds at `now`.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some(end) = self.end()
            && end <= now
        {
            self.since = Some(end);
            self.next();
        }
    }

    /// When the phase ends, if that is known.
    pub(super) fn end(&self) -> Option<Instant> {
        self.since?.checked_add(self.lasts?)
    }

    /// Ends the story: this phase holds now, until its own end.
    pub(super) fn play(&mut self, phase: Phase, now: Instant) {
        self.begin(now);
        self.ahead = VecDeque::from([phase]);
        self.since = Some(now);
        self.next();
    }

    /// Changes the slots until the next phase.
    pub(super) fn set_slots(&mut self, slots: usize) {
        Arc::make_mut(&mut self.rules).slots = slots;
    }

    /// How long ago the story began; zero before.
    pub(super) fn at(&self, now: Instant) -> Duration {
        self.began.map_or(Duration::ZERO, |began| now - began)
    }

    fn begin(&mut self, now: Instant) {
        self.began.get_or_insert(now);
        self.since.get_or_insert(now);
    }

    fn next(&mut self) {
        let phase = self.ahead.pop_front().unwrap_or_default();
        (self.lasts, self.left) = (phase.lasts, phase.requests);
        self.rules = Arc::new(self.plain.under(phase));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(phases: Vec<Phase>, now: Instant) -> Schedule {
        let plain = Rules::plain(1, Refusal::default());
        Schedule::new(plain, Story::new(phases).unwrap(), now)
    }

    fn slots(slots: usize) -> Phase {
        Phase {
            slots: Some(slots),
            ..Phase::default()
        }
    }

    #[test]
    fn phases_follow_by_time_from_the_first_request() {
        let lasting = |slots_, lasts| Phase {
            lasts: Some(lasts),
            ..slots(slots_)
        };
        let zero = Instant::now();
        let mut schedule = schedule(vec![lasting(8, SECOND), lasting(2, 2 * SECOND)], zero);
        schedule.advance(zero + 9 * SECOND);
        assert_eq!((schedule.rules().slots, schedule.end()), (8, None));

        let first = zero + 10 * SECOND;
        assert_eq!(schedule.arrive(first).slots, 8);
        assert_eq!(schedule.end(), Some(first + SECOND));
        schedule.advance(first + SECOND - Duration::from_nanos(1));
        assert_eq!(schedule.rules().slots, 8);
        schedule.advance(first + SECOND);
        assert_eq!(schedule.rules().slots, 2);
        assert_eq!(schedule.end(), Some(first + 3 * SECOND));
        assert_eq!(schedule.arrive(first + 3 * SECOND).slots, 1);
        assert_eq!(schedule.end(), None);
    }

    #[test]
    fn a_late_look_skips_the_phases_that_are_over() {
        let zero = Instant::now();
        let lasting = |n| Phase {
            lasts: Some(SECOND),
            ..slots(n)
        };
        let mut schedule = schedule(vec![lasting(8), lasting(4), slots(2)], zero);
        schedule.arrive(zero);
        assert_eq!(schedule.arrive(zero + 5 * SECOND).slots, 2);
    }

    #[test]
    fn phases_follow_by_requests() {
        let now = Instant::now();
        let counted = |n, requests| Phase {
            requests: Some(requests),
            ..slots(n)
        };
        let mut schedule = schedule(vec![counted(8, 2), counted(4, 1)], now);
        let seen: Vec<_> = (0..5).map(|_| schedule.arrive(now).slots).collect();
        assert_eq!(seen, [8, 8, 4, 1, 1]);
    }

    #[test]
    fn a_story_that_begins_with_an_outage_begins_at_once() {
        let now = Instant::now();
        let mut schedule = schedule(vec![Phase::outage(SECOND)], now);
        assert_eq!(schedule.rules().capacity(), 0);
        schedule.advance(now + SECOND);
        assert_eq!(schedule.rules().capacity(), 1);
    }

    #[test]
    fn a_phase_played_by_hand_ends_the_story() {
        let now = Instant::now();
        let mut schedule = schedule(
            vec![
                Phase {
                    lasts: Some(SECOND),
                    ..slots(8)
                },
                slots(4),
            ],
            now,
        );
        schedule.play(Phase::outage(SECOND), now);
        assert!(schedule.rules().outage);
        schedule.advance(now + SECOND);
        assert_eq!(schedule.rules().slots, 1);
        schedule.set_slots(3);
        assert_eq!(schedule.arrive(now + 9 * SECOND).slots, 3);
    }

    #[test]
    fn a_lot_picks_a_trouble_by_its_share() {
        let now = Instant::now();
        let trouble = |kind, rate| Trouble { kind, rate };
        let phase = Phase {
            troubles: vec![
                trouble(TroubleKind::Hang, 0.25),
                trouble(TroubleKind::CloseMidResponse, 0.5),
            ],
            ..Phase::default()
        };
        let rules = schedule(vec![phase], now).arrive(now);
        let picked: Vec<_> = [0.0, 0.24, 0.25, 0.74, 0.75, 0.99]
            .map(|lot| rules.trouble(lot).cloned())
            .into();
        let (hang, close) = (Some(TroubleKind::Hang), Some(TroubleKind::CloseMidResponse));
        assert_eq!(
            picked,
            [hang.clone(), hang, close.clone(), close, None, None]
        );
    }
}
