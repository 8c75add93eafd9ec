//! The operations of each class, and whether some of them wait.

use std::time::Duration;

use tokio::time::Instant;

use super::ServerGate;
use crate::{
    admit::{Key, gate::Gate},
    server::{
        Rejections,
        drain::{Drain, Service},
        places::Operation,
    },
};

/// The operations of a class.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) running: usize,
    pub(super) delayed: usize,
    /// The limits of the class; the greatest number is none.
    pub(super) throttle_at: usize,
    pub(super) reject_at: usize,
    pub(super) service: Service,
}

#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// The oldest when it was last looked for.
    pub(super) oldest: Option<Key>,
    pub(super) rejected: Rejections,
    pub(super) drain: Drain,
}

impl Lane {
    #[inline]
    pub(super) fn pending(&self) -> usize {
        self.running + self.delayed
    }
}

impl ServerGate {
    #[inline]
    pub(super) fn lane(&self, lane: usize) -> &Lane {
        match lane == self.record {
            true => &self.records,
            false => self.other_lane(lane),
        }
    }

    // What most operations never come to is not between what all do.
    #[cold]
    fn other_lane(&self, lane: usize) -> &Lane {
        &self.lanes[lane].0
    }

    #[inline]
    pub(super) fn lane_mut(&mut self, lane: usize) -> &mut Lane {
        match lane == self.record {
            true => &mut self.records,
            false => self.other_lane_mut(lane),
        }
    }

    #[cold]
    fn other_lane_mut(&mut self, lane: usize) -> &mut Lane {
        &mut self.lanes[lane].0
    }

    /// A lane, and what only matters while some are delayed or rejected.
    fn crowd_of(&mut self, lane: usize) -> (&mut Lane, &mut Crowd) {
        let (other, crowd) = &mut self.lanes[lane];
        match lane == self.record {
            true => (&mut self.records, crowd),
            false => (other, crowd),
        }
    }

    /// An operation took so long.
    #[inline]
    pub(super) fn took(&mut self, lane: usize, time: Duration) {
        self.service.took(time);
        self.lane_mut(lane).service.took(time);
    }

    /// An operation that ran has ended, after so long if that is to be counted.
    #[inline]
    pub(super) fn ended(&mut self, operation: &Operation, now: Instant, took: Option<Duration>) {
        let lane = operation.lane as usize;
        if let Some(took) = took {
            self.took(lane, took);
        }
        if self.delayed > 0 {
            return self.ended_before_others(operation, now, took.is_some());
        }
        self.lane_mut(lane).running -= 1;
    }

    #[cold]
    fn ended_before_others(&mut self, operation: &Operation, now: Instant, counted: bool) {
        let (lane, crowd) = self.crowd_of(operation.lane as usize);
        let running = lane.running;
        lane.running -= 1;
        if counted {
            crowd.drain.ended(now, 1, running, lane.service);
            let (weight, running) = (operation.weight, self.slots.running());
            self.drain.ended(now, weight, running, self.service);
        }
        self.crowd(now);
    }

    pub(super) fn delay(&mut self, index: usize, now: Instant) {
        self.delayed += 1;
        self.lane_mut(index).delayed += 1;
        self.crowd(now);
    }

    /// Finds out whether somebody waits in a class, and whether somebody waits for
    /// all and not for its own class, which says nothing of how fast all get done.
    /// Nor does a pause, which somebody has asked for.
    pub(super) fn crowd(&mut self, now: Instant) {
        let open = self.slots.limit() > 0;
        let mut crowded = false;
        for lane in 0..self.lanes.len() {
            let waits = open && self.lane(lane).delayed > 0;
            crowded |= waits && !self.is_blocked(lane);
            let paused = self.lane(lane).throttle_at == 0;
            self.lanes[lane].1.drain.crowd(now, waits && !paused);
        }
        self.drain.crowd(now, crowded);
    }

    pub(super) fn undelay(&mut self, index: usize, now: Instant) {
        self.delayed -= 1;
        self.lane_mut(index).delayed -= 1;
        self.crowd(now);
    }
}
