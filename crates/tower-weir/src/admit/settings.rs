use std::{sync::Arc, time::Duration};

use crate::{
    BoxError,
    error::ShuttingDown,
    observe::Seam,
    shutdown::{Shutdown, Tally},
};

/// Until when a call keeps its slot.
///
/// Set on a layer, or per request as an extension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Hold {
    /// Until the response body has ended, is dropped, or has been with the
    /// caller for `max_hold`. The default: an upstream is at work until it has
    /// sent its answer, not until it has begun to.
    ///
    /// A body gives its slot up sooner where all slots are with such bodies and
    /// somebody would wait for them in vain: see `max_hold` of the layers.
    #[default]
    BodyEnd,
    /// Until the response's headers. For streams that stay open for long and
    /// cost the upstream little.
    Headers,
}

/// What the admission itself may be told, whatever its gate.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) enabled: bool,
    pub(crate) max_waiting: usize,
    pub(crate) queue_timeout: Duration,
    pub(crate) attempt_timeout: Option<Duration>,
    pub(crate) hold: Hold,
    pub(crate) max_hold: Duration,
    pub(crate) max_hosts: usize,
    /// The one host that all requests go to, if they do.
    pub(crate) host: Option<Arc<str>>,
    /// Whether the service pends while the circuit is open.
    pub(crate) pends: bool,
    pub(crate) seed: Option<u64>,
    pub(crate) seam: Seam,
    pub(crate) shutdown: Option<Shutdown>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            max_waiting: 1024,
            queue_timeout: Duration::from_secs(10),
            attempt_timeout: Some(Duration::from_secs(30)),
            hold: Hold::BodyEnd,
            max_hold: Duration::from_secs(30),
            max_hosts: crate::hosts::MAX_HOSTS,
            host: None,
            pends: false,
            seed: None,
            seam: Seam::default(),
            shutdown: None,
        }
    }
}

impl Settings {
    /// For services that are not HTTP: all requests go to one host.
    pub(crate) fn one_host() -> Self {
        Self {
            host: Some("".into()),
            ..Self::default()
        }
    }

    /// A call was refused with `error`.
    pub(super) fn refused(&self, error: &BoxError) {
        if let Some(shutdown) = &self.shutdown
            && error.is::<ShuttingDown>()
        {
            shutdown.tally(Tally::Refused);
        }
    }
}

/// Writes the setters of every layer over an admission, a server's too, by the
/// layer's method `edit`.
macro_rules! common_setters {
    () => {
        /// How long after its headers a response may keep its slot, if its body
        /// has not ended by then: a long stream that is read all the while loses
        /// it too. Default 30 s; zero frees the slot with the headers. Without
        /// this bound, somebody who opens a second response before reading the
        /// first could wait for himself.
        ///
        /// Where all slots are with such bodies, and none is to be free before the
        /// queue's timeout, the first in line gets that of the oldest body, once it has
        /// waited for 5 s and the body has been with its caller for as long. A server's
        /// layer waits the whole time.
        #[must_use]
        pub fn max_hold(self, hold: std::time::Duration) -> Self {
            self.edit(|settings, _| settings.max_hold = hold)
        }

        /// Tells `observer` what the layer does, as it happens: it is called with
        /// the host (a server's layer: the key) and the
        /// [`Event`](crate::observe::Event) on the task whose call caused it, so
        /// it must be quick and must not block.
        #[must_use]
        pub fn observe(
            self,
            observer: impl Fn(&str, &crate::observe::Event) + Send + Sync + 'static,
        ) -> Self {
            self.edit(move |settings, _| settings.seam = settings.seam.with(observer))
        }
    };
}

/// Writes the setters of every layer that is a single admission.
macro_rules! switch_setters {
    () => {
        /// Whether the layer does anything. Default: yes.
        ///
        /// `option_layer` and `Either` do not type-check around a layer that
        /// changes the response body; this does what they would.
        #[must_use]
        pub fn enabled(self, enabled: bool) -> Self {
            self.edit(|settings, _| settings.enabled = enabled)
        }

        /// Makes every random number of the layer follow from `seed`, so that a
        /// run can be replayed. Default: a seed from the system.
        #[must_use]
        pub fn seed(self, seed: u64) -> Self {
            self.edit(|settings, _| settings.seed = Some(seed))
        }
    };
}

/// Writes the setters of every layer over a client's admission.
macro_rules! admission_setters {
    () => {
        crate::admit::common_setters!();

        /// How many calls of the layer, over all hosts, may wait for their turn.
        /// One more gets a [`QueueFull`](crate::error::QueueFull). Default 1,024.
        #[must_use]
        pub fn max_waiting(self, calls: usize) -> Self {
            self.edit(|settings, _| settings.max_waiting = calls)
        }

        /// How long a call may wait for its turn; then it gets a
        /// [`QueueTimeout`](crate::error::QueueTimeout). Default 10 s. The
        /// request's [`Deadline`](crate::Deadline) bounds the wait too.
        #[must_use]
        pub fn queue_timeout(self, timeout: std::time::Duration) -> Self {
            self.edit(|settings, _| settings.queue_timeout = timeout)
        }

        /// How long an attempt may take to bring its response's headers; then
        /// it gets an [`AttemptTimeout`](crate::error::AttemptTimeout), which
        /// counts as a failure of the upstream. Default 30 s; `None` for no
        /// limit. Zero is no time at all, not no limit: all that is not answered
        /// within a timer's first millisecond fails.
        ///
        /// Where the layers are stacked apart, the outer one's time includes the
        /// wait in the inner one's queue: keep it longer than that queue's
        /// timeout and this one's own together, or set it to `None` outside.
        #[must_use]
        pub fn attempt_timeout(self, timeout: impl Into<Option<std::time::Duration>>) -> Self {
            let timeout = timeout.into();
            self.edit(|settings, _| settings.attempt_timeout = timeout)
        }

        /// Until when a call keeps its slot. Default
        /// [`Hold::BodyEnd`](crate::admit::Hold::BodyEnd). A
        /// [`Hold`](crate::admit::Hold) among a request's extensions goes first.
        #[must_use]
        pub fn hold(self, hold: crate::admit::Hold) -> Self {
            self.edit(|settings, _| settings.hold = hold)
        }

        /// Says that all requests go to one upstream, called `name` in events
        /// and errors, whatever their URIs say. For clients whose requests name
        /// no authority, such as tonic's `Channel`.
        #[must_use]
        pub fn for_host(self, name: impl Into<std::sync::Arc<str>>) -> Self {
            let name = name.into();
            self.edit(|settings, _| settings.host = Some(name))
        }
    };
}

/// Writes the setters of a client's layer with one gate.
macro_rules! single_gate_setters {
    () => {
        crate::admit::admission_setters!();
        crate::admit::switch_setters!();

        /// How many hosts are remembered; the one idle the longest is forgotten
        /// first, and none that has calls in flight or waiting. Default 256; 0
        /// counts as 1.
        #[must_use]
        pub fn max_hosts(self, hosts: usize) -> Self {
            self.edit(|settings, _| settings.max_hosts = hosts)
        }

        /// Closes the layer when `shutdown` begins: new calls, and those that
        /// wait for their turn, are refused with a
        /// [`ShuttingDown`](crate::error::ShuttingDown). Default: none.
        ///
        /// The layer knows attempts, not requests: it is the
        /// [`RetryLayer`](crate::retry::RetryLayer), or a
        /// [`ShutdownLayer`](crate::shutdown::ShutdownLayer) outermost, that
        /// counts requests and cuts them when the grace is over. While the layer is
        /// not [enabled](Self::enabled), calls pass it, and it waits for none.
        #[must_use]
        pub fn shutdown(self, shutdown: &crate::shutdown::Shutdown) -> Self {
            self.edit(|settings, _| settings.shutdown = Some(shutdown.clone()))
        }
    };
}

pub(crate) use {admission_setters, common_setters, single_gate_setters, switch_setters};
