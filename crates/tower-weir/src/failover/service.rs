use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    FailoverHandle, InvalidRegions, Region, ResponseFuture, Run, core::Core, journey::Journey,
    policy::Policy, region, shared::Shared, slot::Slot,
};
#[cfg(feature = "tonic")]
use crate::retry::ToTonic;
use crate::{
    BoxError,
    observe::{Event, Seam, Subscription},
    outcome::{Classify, HttpClassifier},
    retry::{Account, MapBody, MapReplay, MapsBodies, ReplayBody, Same},
};

/// A service that sends each request to the first of several regions that is up,
/// and elsewhere if that one does not serve it. See the [module](super) for how.
///
/// The value owns its state: clones share it. A setter makes a new value with
/// fresh state.
pub struct Failover<S, C = HttpClassifier, M = Same> {
    shared: Arc<Shared<S, C>>,
    map: M,
    account: Account,
    slot: Slot<S>,
}

impl<S: Clone> Failover<S> {
    /// Over stacks that end in hyper's clients, and all others that take any
    /// request body. The regions are given in the order of preference.
    ///
    /// # Errors
    ///
    /// [`InvalidRegions`] if there are none, or more than 64, or two have one
    /// name.
    pub fn http(regions: impl IntoIterator<Item = Region<S>>) -> Result<Self, InvalidRegions> {
        Self::over(regions, Same)
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl<S: Clone> Failover<S, HttpClassifier, ToTonic> {
    /// Over stacks that end in tonic's `Channel`, and over bare ones.
    ///
    /// # Errors
    ///
    /// [`InvalidRegions`] if there are none, or more than 64, or two have one
    /// name.
    pub fn grpc(regions: impl IntoIterator<Item = Region<S>>) -> Result<Self, InvalidRegions> {
        Self::over(regions, ToTonic)
    }
}

impl<S: Clone, M> Failover<S, HttpClassifier, M> {
    fn over(regions: impl IntoIterator<Item = Region<S>>, map: M) -> Result<Self, InvalidRegions> {
        let (services, places) = region::checked(regions)?;
        let core = Core::new(places, Seam::default(), Policy::default());
        Ok(Self {
            shared: Arc::new(Shared::new(core, HttpClassifier::new(), services)),
            map,
            account: Account::default(),
            slot: Slot::Empty,
        })
    }

    /// Judges answers with a classifier of the user's: what a good answer is,
    /// and what may be sent again. The regions' stacks have their own.
    #[must_use]
    pub fn classify<D>(self, classifier: D) -> Failover<S, D, M> {
        let seam = self.shared.core.seam.fresh();
        self.edit(|_| {}, seam, |_| classifier)
    }
}

impl<S: Clone, C: Clone> Failover<S, C> {
    /// Sends the regions what `map` makes of each attempt's body, for services
    /// that take one type of body only: boxed ones, say. See
    /// [`RetryLayer::map_body`](crate::retry::RetryLayer::map_body).
    #[must_use]
    pub fn map_body<F, B, Out>(self, map: F) -> Failover<S, C, MapBody<F>>
    where
        F: Fn(ReplayBody<B>) -> Out,
    {
        let Self {
            shared, account, ..
        } = self.set(|_| {});
        Failover {
            shared,
            map: MapBody::new(map),
            account,
            slot: Slot::Empty,
        }
    }
}

impl<S: Clone, C: Clone, M> Failover<S, C, M> {
    /// Takes every request for safe to send elsewhere, whatever its method, as
    /// [`RetryPolicy::any_method`](crate::retry::RetryPolicy::any_method) does.
    /// Mind that an `Idempotency-Key` tells two regions' copies apart only if they
    /// share what they know of it.
    #[must_use]
    pub fn any_method(self) -> Self {
        self.set(|policy| policy.any_method = true)
    }

    /// The time that a whole request may take, in all regions together. Default:
    /// none. An earlier [`Deadline`](crate::Deadline) among the request's
    /// extensions, and a gRPC request's `grpc-timeout`, go before it.
    #[must_use]
    pub fn deadline(self, deadline: impl Into<Option<Duration>>) -> Self {
        let deadline = deadline.into();
        self.set(|policy| policy.deadline = deadline)
    }

    /// The failures that take a region down. Default: 3 in a row over 1 s.
    #[must_use]
    pub fn failures(self, run: Run) -> Self {
        self.set(|policy| policy.rules.failures = run)
    }

    /// The refusals (429, 503, UNAVAILABLE, a full queue) that take a region
    /// down. Default: 3 in a row over 2 s. Each has been waited for by the
    /// region's own retries.
    #[must_use]
    pub fn refusals(self, run: Run) -> Self {
        self.set(|policy| policy.rules.refusals = run)
    }

    /// How often a region that is down, and preferred to the one in use, gets a
    /// request as a probe. Default: every second.
    #[must_use]
    pub fn probe_every(self, period: Duration) -> Self {
        self.set(|policy| policy.rules.probe_every = period)
    }

    /// How many probes in a row must be answered well before a region is up
    /// again. Default 3; 0 counts as 1.
    #[must_use]
    pub fn successes(self, probes: u32) -> Self {
        self.set(|policy| policy.rules.successes = probes)
    }

    /// How long a region is down at least. Default 5 s. It doubles, up to 64
    /// times itself, if the region goes down again within a minute of its return:
    /// one that bears a probe a second and no more must not take everybody to and
    /// fro. It does not hold while no region is up.
    #[must_use]
    pub fn min_down(self, time: Duration) -> Self {
        self.set(|policy| policy.rules.min_down = time)
    }

    /// How long a region is down at most: then it gets all requests again, good
    /// probes or none. Default: as long as its probes fail.
    #[must_use]
    pub fn max_down(self, time: impl Into<Option<Duration>>) -> Self {
        let time = time.into();
        self.set(|policy| policy.rules.max_down = time)
    }

    /// How long a request that goes elsewhere waits for that region's service to
    /// become ready before it tries the next one. Default 1 s.
    #[must_use]
    pub fn ready_within(self, time: Duration) -> Self {
        self.set(|policy| policy.ready_within = time)
    }

    /// Where the memory of recorded request bodies is counted. Default: up to
    /// 4 MiB a request and 256 MiB in all. A request over it goes to one region
    /// only. The regions' stacks record nothing of their own.
    #[must_use]
    pub fn replay(mut self, account: Account) -> Self {
        self.account = account;
        self.set(|_| {})
    }

    /// Tells `observer` what the failover does, as it happens: it is called with
    /// the region's name and the [`Event`] on the task whose request caused it,
    /// so it must be quick and must not block.
    #[must_use]
    pub fn observe(self, observer: impl Fn(&str, &Event) + Send + Sync + 'static) -> Self {
        let seam = self.shared.core.seam.with(observer);
        self.edit(|_| {}, seam, Clone::clone)
    }

    /// The failover with what a file says of it.
    #[cfg(feature = "config")]
    pub(crate) fn taking(self, settings: &crate::config::FailoverSettings) -> Self {
        let account = settings.replay.account();
        self.set(|policy| *policy = settings.into()).replay(account)
    }

    fn set(self, change: impl FnOnce(&mut Policy)) -> Self {
        let seam = self.shared.core.seam.fresh();
        self.edit(change, seam, Clone::clone)
    }
}

impl<S: Clone, C, M> Failover<S, C, M> {
    fn edit<D>(
        self,
        change: impl FnOnce(&mut Policy),
        seam: Seam,
        classifier: impl FnOnce(&C) -> D,
    ) -> Failover<S, D, M> {
        let old = &self.shared.core;
        let mut policy = old.policy();
        change(&mut policy);
        let core = Core::new(old.places.clone(), seam, policy);
        let classifier = classifier(&self.shared.classifier);
        let services = self.shared.services();
        Failover {
            shared: Arc::new(Shared::new(core, classifier, services)),
            map: self.map,
            account: self.account,
            slot: Slot::Empty,
        }
    }
}

impl<S, C, M> Failover<S, C, M> {
    /// A view into the failover while it runs, and a hand on it.
    ///
    /// Set first, then take handles: one that was taken before a setter is a view of
    /// state that nobody uses.
    pub fn handle(&self) -> FailoverHandle {
        FailoverHandle {
            core: self.shared.core.clone(),
            account: self.account.clone(),
        }
    }

    /// Everything that the failover does from now on.
    ///
    /// Set first, then subscribe: after a setter the events go elsewhere.
    pub fn subscribe(&self) -> Subscription {
        self.shared.core.seam.subscribe()
    }
}

impl<S, C, M, B, ResB> Service<Request<B>> for Failover<S, C, M>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    M: MapReplay<B> + MapsBodies + Clone,
    S: Service<Request<M::Out>, Response = Response<ResB>> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<Response<ResB>>,
{
    type Response = Response<ResB>;
    type Error = BoxError;
    type Future = ResponseFuture<S, Request<M::Out>, C, B, M>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.slot.poll(&self.shared, cx, |service, cx| {
            service.poll_ready(cx).map_err(Into::into)
        })
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let ready = self.slot.region();
        let (shared, map) = (self.shared.clone(), self.map.clone());
        let begun = Journey::begin(shared, map, &self.account, request, ready);
        match begun {
            Ok((journey, request)) => match self.slot.take(journey.region()) {
                Some(mut service) => {
                    let future = service.call(request);
                    ResponseFuture::called(journey, future)
                }
                None => ResponseFuture::readying(journey, request),
            },
            Err(error) => ResponseFuture::broken(error),
        }
    }
}

impl<S, C, M: Clone> Clone for Failover<S, C, M> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            map: self.map.clone(),
            account: self.account.clone(),
            // What is ready, or waits to be, is one clone's.
            slot: Slot::Empty,
        }
    }
}

impl<S, C, M> fmt::Debug for Failover<S, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.shared.core.places.iter().map(|place| &place.name);
        f.debug_struct("Failover")
            .field("regions", &names.collect::<Vec<_>>())
            .field("policy", &self.shared.core.policy())
            .finish_non_exhaustive()
    }
}
