//! The slots: an [`AdmissionLayer`] around a service that answers with a slot.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, Request, Response,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use http_body::{Body, Frame};
use http_body_util::Empty;
use tower_layer::Layer;
use tower_service::Service;
use tower_weir::server::{
    Admission, AdmissionBody, AdmissionHandle, AdmissionLayer, Class, ClassTable, Delayed,
    KeySnapshot, Limits, Rejected, ResponseFuture,
};

use super::{grpc, http as plain, phase::Refusal};

/// A body that never ends: its operation is pending until it is dropped.
#[derive(Debug)]
pub(super) struct Slot(());

impl Body for Slot {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// Answers at once with a slot, and with how long it was waited for.
#[derive(Clone, Debug)]
pub(super) struct Slots;

impl Service<Request<Empty<Bytes>>> for Slots {
    type Response = Response<Slot>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Slot>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Empty<Bytes>>) -> Self::Future {
        let mut response = Response::new(Slot(()));
        if let Some(delayed) = request.extensions().get::<Delayed>() {
            response.extensions_mut().insert(*delayed);
        }
        ready(Ok(response))
    }
}

/// What a request for a slot is answered.
pub(super) type Answered = Response<AdmissionBody<Slot>>;

/// How many slots there are, and how many may wait for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) slots: usize,
    pub(super) queue: usize,
}

impl Room {
    fn limit(self, limits: &mut Limits) {
        limits.throttle_at = self.slots;
        limits.reject_at = self.slots.saturating_add(self.queue);
    }
}

/// Lets as many requests have a slot as there are, and others wait or be
/// rejected.
#[derive(Debug)]
pub(super) struct Throttle {
    service: Admission<Slots>,
    handle: AdmissionHandle,
    room: Room,
}

impl Throttle {
    pub(super) fn new(room: Room) -> Self {
        let layer = AdmissionLayer::new()
            .table(ClassTable::new().otherwise(Class::RECORD))
            .limits(|limits| room.limit(limits))
            .max_delay(Duration::MAX)
            .max_hold(Duration::MAX);
        Self {
            handle: layer.handle(),
            service: layer.layer(Slots),
            room,
        }
    }

    /// Slots that are taken away serve their requests to the end.
    pub(super) fn set(&mut self, room: Room) {
        if room != self.room {
            self.room = room;
            self.handle.update(|config| room.limit(&mut config.limits));
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.room.slots
    }

    /// How many are in a slot or wait for one.
    pub(super) fn in_flight(&self) -> usize {
        let keys = self.handle.snapshot();
        keys.iter().map(KeySnapshot::pending).sum()
    }

    /// Asks for a slot for a request with these headers, and has a place in the
    /// queue when this returns, if it has to wait.
    pub(super) fn ask(&self, headers: &HeaderMap) -> ResponseFuture<Slots, Empty<Bytes>> {
        let mut ask = Request::new(Empty::new());
        if let Some(kind) = headers.get(CONTENT_TYPE) {
            ask.headers_mut().insert(CONTENT_TYPE, kind.clone());
        }
        self.service.clone().call(ask)
    }
}

/// Whether there is no slot in the answer.
pub(super) fn is_rejected(answered: &Answered) -> bool {
    answered.extensions().get::<Rejected>().is_some()
}

/// How long the slot was waited for.
pub(super) fn waited(answered: &Answered) -> Duration {
    let delayed = answered.extensions().get::<Delayed>();
    delayed.map_or(Duration::ZERO, |delayed| delayed.0)
}

/// The layer's rejection, with what is to be said to the refused.
pub(super) fn worded(rejected: Answered, refusal: &Refusal) -> Response<tonic::body::Body> {
    let mut response = rejected.map(tonic::body::Body::new);
    if refusal.measured {
        return response;
    }
    let headers = response.headers_mut();
    headers.remove(RETRY_AFTER);
    headers.remove(grpc::PUSHBACK);
    headers.remove("grpc-status-details-bin");
    match refusal.retry_after {
        Some(after) if headers.contains_key("grpc-status") => grpc::push_back(headers, after),
        Some(after) => plain::retry_after(headers, after),
        None => {}
    }
    response
}
